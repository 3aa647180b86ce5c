"""What is searched, what is asked, and which answers count as right?

Truth is exact: every query against every row. An answer is right if its true distance is not above that of the true k-th
neighbour, so that it doesn't matter which of several equally near rows a system returns.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import datasets

K = 10
_BLOCK_ROWS = 65_536
_SAMPLE_QUERIES = 200
_TOLERANCE = 1e-5
"""Relative; scores are float32 sums in an order that depends on the shape of the product."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A data set with queries that are not part of it, and the exact answers."""

    name: str
    metric: str
    base: npt.NDArray[np.generic]
    """(n, d), in the data's own type."""
    queries: npt.NDArray[np.generic]
    """(q, d), in the same type."""
    limits: Floats
    """(q,) the score of the true k-th neighbour; larger is nearer."""
    sample: npt.NDArray[np.generic] | None = None
    """(s, d) more queries, to be shown to who builds an index, where rows are not like queries; None where they are."""

    def recall(self, ids: npt.NDArray[np.int64], first_query: int = 0) -> float:
        """Return the share of the true `K` nearest that were found.

        Parameters
        ----------
        ids
            (m, K): the answers to the queries from `first_query` on. An id that is returned twice counts once.
        """
        found = 0
        for number, row in enumerate(ids, start=first_query):
            unique = np.unique(row)
            near = scores(np.asarray(self.base[unique]), self.queries[number : number + 1], self.metric)[0]
            limit = self.limits[number]
            found += int(np.count_nonzero(near >= limit - _TOLERANCE * abs(limit)))
        return found / (len(ids) * K)


def load(name: str, *, cache: Path, shared: Path, jittered: int) -> Problem:
    """Return a data set by its name, with the truth from the cache or into it."""
    if name == "minilm_jittered":
        data = datasets.minilm_jittered(cache, shared, jittered)
    elif name == "minilm":
        data = datasets.minilm(cache, shared)
    else:
        data = {"glove": datasets.glove, "mnist": datasets.mnist}[name](cache)
    path = cache / f"{name}_{len(data.base)}_limits_{K}.npy"
    if path.exists():
        limits = np.load(path)
    else:
        limits = exact_limits(data.base, data.queries, data.metric)
        np.save(path, limits)
    # Sets may be sorted (GloVe: by how common a word is), and the first queries are asked more often than others.
    order = np.random.default_rng(0).permutation(len(data.queries))
    asked, shown = order, None
    if name == "minilm_jittered":  # a row has copies among the others, a query has none
        asked, shown = order[_SAMPLE_QUERIES:], data.queries[order[:_SAMPLE_QUERIES]]
    return Problem(
        name=name,
        metric=data.metric,
        base=data.base,
        queries=data.queries[asked],
        limits=limits[asked],
        sample=shown,
    )


def exact_limits(base: npt.NDArray[np.generic], queries: npt.NDArray[np.generic], metric: str) -> Floats:
    """Return the score of each query's K-th nearest row."""
    best = np.full((len(queries), K), -np.inf, dtype=np.float32)
    for start in range(0, len(base), _BLOCK_ROWS):
        block = scores(np.asarray(base[start : start + _BLOCK_ROWS]), queries, metric)
        both = np.concatenate([best, block], axis=1)
        best = np.partition(both, both.shape[1] - K, axis=1)[:, -K:]
    return best.min(axis=1)


def scores(rows: npt.NDArray[np.generic], queries: npt.NDArray[np.generic], metric: str) -> Floats:
    """Return the (q, n) scores, larger being nearer: cosines, or negated squared distances."""
    left, right = unit_or_same(queries, metric), unit_or_same(rows, metric)
    products: Floats = left @ right.T
    if metric == "cosine":
        return products
    return 2 * products - squares(left)[:, np.newaxis] - squares(right)


def squares(rows: Floats) -> Floats:
    """Return the squared length of each row."""
    lengths: Floats = np.einsum("ij,ij->i", rows, rows)
    return lengths


def unit_or_same(rows: npt.NDArray[np.generic], metric: str) -> Floats:
    """Return float32 rows, of length 1 under cosine; their inner products are what `metric` compares."""
    floats = np.asarray(rows, dtype=np.float32)
    if metric != "cosine":
        return floats
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return floats / np.where(lengths == 0, 1, lengths)
