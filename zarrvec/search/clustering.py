"""Which lists do vectors belong to?

Pure: vectors in, numbers out, the same ones for the same seed. Sources: k-means; the second list of a row by SOAR,
arXiv 2404.00774. What is chosen here was measured: ``specs/vector-index.md``, section "Choices".
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.engine.bridge import call_after_fork
from zarrvec.errors import OptionError
from zarrvec.search.origin import middle_of

CANDIDATES: Final = 16
"""Nearest lists among which the second one of a row is sought."""
SOAR_STRENGTH: Final = 1.5
"""SOAR's lambda: what it costs that a second residual points where the first does."""
SECOND_SHARE: Final = 0.5
"""Part of the rows that get a second list."""
FLAT_TRAINING_LISTS: Final = 1_024
"""k-means is run at once for up to so many lists, else first for groups and then within each."""
FLAT_SEARCH_LISTS: Final = 20_000
"""All centroids are compared up to so many: 6 % of the rows would miss their nearest list for a halved time."""
_FLAT_REFINED_LISTS: Final = 4_000
"""While centroids still move, missing some of the nearest does no harm."""
_ITERATIONS: Final = 10
_REFINEMENTS: Final = 3
"""Rounds over all rows and lists after k-means in groups."""
_PROBED_GROUPS: Final = 16
_BLOCK_ROWS: Final = 16_384
_ALL_PRODUCTS: Final = 64
"""With up to so many lists for each candidate products are made with all of them."""
_SPLIT: Final = np.float32(1 / 1024)
"""How far the two halves of a list are moved apart, as in faiss."""

Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]
Progress: TypeAlias = Callable[[float], None]
"""Told the part of the work that is done, in [0, 1]."""


class Second(NamedTuple):
    """The second list of each row."""

    lists: Int32
    """(n,) int32; that of the only list where there is no other."""
    gains: Float32
    """(n,) float32: how much it helps to find the row there too; -inf where there is no other list."""


def train_centroids(
    sample: Float32, nlist: int, *, seed: int = 0, progress: Progress | None = None
) -> Float32:
    """Return centroids by k-means.

    Parameters
    ----------
    sample
        (s, d) float32, finite.
    nlist
        Lists wanted.
    seed, progress
        Of what is drawn; called with the part that is done.

    Returns
    -------
    ndarray
        (min(nlist, s), d) float32. Some may be equal if rows of the sample are.

    Raises
    ------
    OptionError
        If `nlist` is less than 1, the sample is empty, or faiss is not installed.

    Examples
    --------
    >>> sample = np.array([[0, 0], [0, 2], [9, 9], [9, 7]], "f4")
    >>> sorted(train_centroids(sample, 2).tolist())
    [[0.0, 1.0], [9.0, 8.0]]
    """
    if nlist < 1:
        raise OptionError(f"nlist={nlist}: expected at least 1 list")
    if not len(sample):
        raise OptionError("no rows to train lists on: expected at least one that is finite")
    report = progress or (lambda _: None)
    nlist = min(nlist, len(sample))
    rng = np.random.default_rng(seed)
    if nlist <= FLAT_TRAINING_LISTS:
        centroids = _kmeans(sample, nlist, rng)
    else:
        centroids = _kmeans_in_groups(sample, nlist, rng, lambda part: report(part / 2))
        for done in range(_REFINEMENTS):
            centroids = _refined(sample, centroids, rng)
            report(0.5 + 0.5 * (done + 1) / _REFINEMENTS)
    report(1.0)
    return centroids


def _kmeans(rows: Float32, nlist: int, rng: np.random.Generator) -> Float32:
    trained = _faiss().Kmeans(
        rows.shape[1],
        nlist,
        niter=_ITERATIONS,
        seed=int(rng.integers(1 << 31)),
        min_points_per_centroid=1,  # or it warns on the terminal
        max_points_per_centroid=256,
    )
    trained.train(rows)
    centroids: Float32 = trained.centroids
    return centroids


def _kmeans_in_groups(rows: Float32, nlist: int, rng: np.random.Generator, progress: Progress) -> Float32:
    count = round(nlist**0.5)
    group = Assigner(_kmeans(rows, count, rng)).nearest(rows, 1)[0][:, 0]
    order, starts = _grouped(group, count)
    sizes = np.diff(starts)
    parts = []
    with one_thread():
        for number, wanted in enumerate(_apportioned(sizes, nlist)):
            if wanted:
                members = rows[order[starts[number] : starts[number + 1]]]
                parts.append(_kmeans(members, int(wanted), rng))
            progress((number + 1) / count)
    return np.concatenate(parts)


def _apportioned(sizes: npt.NDArray[np.int64], seats: int) -> npt.NDArray[np.int64]:
    """Return how many of the seats each group gets: in proportion, by largest remainders, and no more than its size."""
    exact = sizes * (seats / sizes.sum())
    given: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(given - exact, kind="stable")
    given[by_remainder[: seats - given.sum()]] += 1
    return given


def _refined(rows: Float32, centroids: Float32, rng: np.random.Generator) -> Float32:
    """Return centroids after one round of Lloyd's; a list without rows takes over half of a large one."""
    nlist = len(centroids)
    assigner = Assigner(centroids, flat_lists=_FLAT_REFINED_LISTS)
    order, starts = _grouped(assigner.nearest(rows, 1)[0][:, 0], nlist)
    sizes = np.diff(starts)
    moved = centroids.copy()
    for number in np.flatnonzero(sizes):
        moved[number] = rows[order[starts[number] : starts[number + 1]]].mean(axis=0)
    empty = np.flatnonzero(sizes == 0)
    if empty.size:
        large = rng.choice(nlist, empty.size, p=sizes / sizes.sum())
        signs = np.where(np.arange(rows.shape[1]) % 2, -_SPLIT, _SPLIT)
        moved[empty] = moved[large] * (1 + signs)
        moved[large] *= 1 - signs
    return moved


def _grouped(
    numbers: npt.NDArray[np.integer[Any]], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Return the positions sorted by number, and where each number begins among them."""
    order = np.argsort(numbers, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))])


class Assigner:
    """Finds the nearest centroids of rows; may be used by several threads at once.

    Parameters
    ----------
    centroids
        (nlist, d) float32.
    flat_lists
        Up to so many centroids all are compared; of more, those in the groups nearest to the row.

    Examples
    --------
    >>> assigner = Assigner(np.array([[0, 0], [4, 0], [0, 9]], "f4"))
    >>> lists, distances = assigner.nearest(np.array([[1, 0]], "f4"), 2)
    >>> lists.tolist(), distances.tolist()
    ([[0, 1]], [[1.0, 9.0]])
    """

    __slots__ = ("_centre", "_centroids", "_group_centroids", "_members", "_starts")

    def __init__(self, centroids: Float32, *, flat_lists: int = FLAT_SEARCH_LISTS) -> None:
        self._centre = middle_of(centroids)
        """Taken off everything: the products lose digits if vectors are far from 0 and near each other."""
        self._centroids = centroids - self._centre
        self._group_centroids: Float32 | None = None
        if len(centroids) > flat_lists:
            count = round(len(centroids) ** 0.5)
            self._group_centroids = _kmeans(self._centroids, count, np.random.default_rng(0))
            group = _faiss().knn(self._centroids, self._group_centroids, 1)[1][:, 0]
            self._members, self._starts = _grouped(group, count)

    def nearest(self, rows: Float32, k: int) -> tuple[Int32, Float32]:
        """Return the k nearest centroids of each row, nearest first.

        Parameters
        ----------
        rows
            (n, d) float32, finite.
        k
            At most the number of centroids.

        Returns
        -------
        lists, distances
            (n, k) int32 and float32, distances squared.
        """
        lists = np.empty((len(rows), k), dtype=np.int32)
        distances = np.empty((len(rows), k), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = rows[part] - self._centre
            if self._group_centroids is None:
                distances[part], lists[part] = _faiss().knn(block, self._centroids, k)
            else:
                distances[part], lists[part] = self._nearest_in_groups(block, k, self._group_centroids)
        return lists, distances

    def _nearest_in_groups(self, rows: Float32, k: int, group_centroids: Float32) -> tuple[Float32, Int32]:
        faiss = _faiss()
        count = len(group_centroids)
        probes = min(count, max(_PROBED_GROUPS, 2 * k * count // len(self._centroids)))
        probed = faiss.knn(rows, group_centroids, probes)[1].ravel()
        order, starts = _grouped(probed, count)
        distances = np.full((len(rows) * probes, k), np.inf, dtype=np.float32)
        lists = np.zeros((len(rows) * probes, k), dtype=np.int32)
        with one_thread():
            for number in np.flatnonzero(np.diff(starts)):
                members = self._members[self._starts[number] : self._starts[number + 1]]
                kept = min(k, len(members))
                if kept:
                    at = order[starts[number] : starts[number + 1]]
                    found = faiss.knn(rows[at // probes], self._centroids[members], kept)
                    distances[at, :kept], lists[at, :kept] = found[0], members[found[1]]
        distances, lists = distances.reshape(len(rows), -1), lists.reshape(len(rows), -1)
        best = np.argpartition(distances, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(
            best, np.argsort(np.take_along_axis(distances, best, axis=1), axis=1), axis=1
        )
        return np.take_along_axis(distances, best, axis=1), np.take_along_axis(lists, best, axis=1)


def second_lists(
    rows: Float32, centroids: Float32, lists: Int32, distances: Float32, *, strength: float = SOAR_STRENGTH
) -> Second:
    """Choose the list in which each row is put besides its nearest.

    Of a query that misses the first list, the residual to it was large along the query; a second residual that points
    elsewhere makes up for it. So the loss of a list is ``|r2|**2 + strength * (r2 . r1 / |r1|)**2``.

    Parameters
    ----------
    rows
        (n, d) float32.
    centroids
        (nlist, d) float32.
    lists, distances
        (n, c), of `Assigner.nearest`: the first column is the list where the row is, the others those to choose from.
    strength
        SOAR's lambda.

    Examples
    --------
    >>> centroids = np.array([[0, 0], [3, 0], [0, 3.1]], "f4")
    >>> row = np.array([[1, 0]], "f4")
    >>> lists, distances = Assigner(centroids).nearest(row, 3)
    >>> second_lists(row, centroids, lists, distances).lists.tolist()
    [1]
    """
    count = len(rows)
    if lists.shape[1] < 2:
        return Second(lists[:, 0], np.full(count, -np.inf, dtype=np.float32))
    chosen = np.empty(count, dtype=np.int32)
    gains = np.full(count, -np.inf, dtype=np.float32)
    step = max(1, _BLOCK_ROWS // lists.shape[1])
    for start in range(0, count, step):
        part = slice(start, start + step)
        first = rows[part] - centroids[lists[part, 0]]
        if (
            len(centroids) <= _ALL_PRODUCTS * lists.shape[1]
        ):  # one product of matrices beats gathering centroids
            towards = np.take_along_axis(first @ centroids.T, lists[part, 1:], axis=1)
        else:
            towards = np.einsum("ncd,nd->nc", centroids[lists[part, 1:]], first)
        along = np.einsum("nd,nd->n", rows[part], first)[:, None] - towards
        nearest = distances[part, :1]
        away = nearest > 0
        losses = np.divide(along**2, nearest, out=np.zeros_like(along), where=away)
        losses *= np.float32(strength)
        losses += distances[part, 1:]
        best = losses.argmin(axis=1)[:, None]
        chosen[part] = np.take_along_axis(lists[part, 1:], best, axis=1)[:, 0]
        ratio = np.divide(
            np.take_along_axis(losses, best, axis=1), nearest, out=np.full_like(nearest, np.inf), where=away
        )
        gains[part] = -ratio[:, 0]
    return Second(chosen, gains)


def gain_threshold(gains: Float32, share: float = SECOND_SHARE) -> float:
    """Return the gain from which on a row gets its second list, so that this share of such rows does.

    Rows that gain nothing, -inf, never do; nor do those of which it can't be told, NaN, since squares of float32 overflow.

    Examples
    --------
    >>> gain_threshold(np.array([1, 2, 3, 4], "f4"), 0.5)
    3.0
    """
    count = round(len(gains) * share)
    if not count:
        return np.inf
    position = len(gains) - count
    known = np.where(np.isnan(gains), np.float32(-np.inf), gains)
    return max(float(np.partition(known, position)[position]), float(np.finfo(np.float32).min))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise OptionError("an index is built with faiss: pip install 'zarrvec[search]'") from error
    if _is_forked.is_set():
        faiss.omp_set_num_threads(1)  # of this thread
    return faiss


_is_forked: Final = threading.Event()
"""Set where faiss was loaded before a fork: the threads of its pool are not in the child, and would be waited for."""


def _note_fork() -> None:
    if "faiss" in sys.modules:
        _is_forked.set()


call_after_fork(_note_fork)


@contextmanager
def one_thread() -> Iterator[Any]:
    """Keep faiss, which is yielded, in the calling thread: in small pieces of work its threads cost more than they give."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of this thread only
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
