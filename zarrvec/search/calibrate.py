"""How does recall depend on the lists that are probed?

No search is run: a true neighbour is found when one of the lists it stands in is among those probed, so the rank of that
list in the order of the query says from which nprobe on. What the codes lose is measured apart (`zarrvec.search.loss`). Source: ``specs/vector-index.md``, section "Calibration".
"""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from zarrvec.search.depth import Compass
from zarrvec.search.groups import Nearness
from zarrvec.search.head import Calibration, Curve
from zarrvec.search.list_table import ListTable

CALIBRATED_K: Final = (1, 10, 100)
TRUTH_K: Final = 200
"""True neighbours that are looked up: those of the largest k, and as many that codes may rank before them."""
_FAR_SHARE: Final = 0.995
_LOSS: Final = 0.003
"""Recall that may be lost by looking at the nearest groups only, where it is `_HIGH` at least."""
_HIGH: Final = 0.8
_SEEN: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Lists that are looked at for each one that is probed: what is tried."""
_PAIRS: Final = 1 << 23
"""Pairs of a query and a list that are compared at once."""
_STEP: Final = 1.12
"""nprobe grows by this factor from one that is written down to the next."""

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


def list_ranks(queries: Float32, compass: Compass, lists: Int32) -> tuple[Int32, Float32]:
    """Return the ranks of some lists in the order of each query, and the squared distance to the nearest centroid.

    Parameters
    ----------
    queries
        (c, d) float32.
    compass
        Of all lists.
    lists
        (c, t, s) int32; -1 for none.

    Returns
    -------
    (c, t, s) int32 and (c,) float32
        The rank of no list is their number.

    Examples
    --------
    >>> compass = Compass.of(np.array([[0, 0], [1, 2]], "f4"), np.ones(2, "f4"), "l2")
    >>> ranks, nearest = list_ranks(np.array([[1, 1]], "f4"), compass, np.array([[[0, 1], [1, -1]]], "i4"))
    >>> ranks.tolist(), nearest.tolist()
    ([[[1, 0], [0, 2]]], [1.0])
    """
    nlist = len(compass.vectors)
    ranks = np.full(lists.shape, nlist, dtype=np.int32)
    nearest = np.empty(len(queries), dtype=np.float32)
    order = np.arange(nlist, dtype=np.int32)[None, :]
    step = max(1, _PAIRS // nlist)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        probes = compass.probe(queries[part], nlist)
        nearest[part] = probes.nearest
        of_all = np.empty(probes.lists.shape, dtype=np.int32)
        np.put_along_axis(of_all, probes.lists, order, axis=1)
        ranks[part] = _of_lists(of_all, lists[part], nlist)
    return ranks, nearest


def _of_lists(values: npt.NDArray[Any], lists: Int32, otherwise: int) -> Int32:
    """Return (c, t, s) values of lists, of (c, nlist) for all."""
    found = np.take_along_axis(values, np.maximum(lists, 0).reshape(len(lists), -1), axis=1)
    return np.where(lists < 0, otherwise, found.reshape(lists.shape)).astype(np.int32, copy=False)


def limit_to_groups(
    queries: Float32, lists: Int32, ranks: Int32, groups: ListTable, compass: Compass
) -> tuple[float, Int32]:
    """Choose at how many lists a search looks if it looks at those of the nearest groups only.

    A list is found by a search that probes more lists than its rank, if that search looks at its group: so the rank becomes
    the least nprobe with which both are so, less 1. That others move up when some are not looked at is left out.

    Parameters
    ----------
    queries, lists
        As for `list_ranks`.
    ranks
        What that returned.
    groups
        Of all lists.
    compass
        Of the groups.

    Returns
    -------
    seen, ranks
        Lists to look at for each one probed, and the ranks with that.
    """
    nlist = int(groups.heads["count"].sum(dtype=np.int64))
    grid = nprobe_grid(nlist)
    sizes = groups.heads["count"].astype(np.int64)
    near = Nearness.of(compass, sizes, queries)
    in_group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[np.maximum(lists, 0)]
    in_group[lists < 0] = -1
    before = [_shares(ranks, k, grid).mean(axis=1) for k in CALIBRATED_K]
    limited = ranks
    for seen in _SEEN:
        limited = np.maximum(ranks, _of_lists(near.needed(seen), in_group, nlist))
        after = [_shares(limited, k, grid).mean(axis=1) for k in CALIBRATED_K]
        lost = [(old - new)[old >= _HIGH].max(initial=0.0) for old, new in zip(before, after, strict=True)]
        if max(lost) <= _LOSS:
            break
    return float(seen), limited


def nprobe_grid(nlist: int) -> tuple[int, ...]:
    """Return the numbers of lists for which recall is written down, ascending to all.

    Examples
    --------
    >>> nprobe_grid(9), len(nprobe_grid(10_000))
    ((1, 2, 3, 4, 5, 6, 7, 8, 9), 76)
    """
    grid, now = [], 1
    while now < nlist:
        grid.append(now)
        now = max(now + 1, int(now * _STEP))
    return (*grid, nlist)


def calibrate(
    *,
    source: str,
    nlist: int,
    ranks: Int32,
    nearest: Float32,
    lost: dict[int, list[float]],
) -> Calibration:
    """Measure recall.

    Parameters
    ----------
    source
        ``"rows"`` or ``"queries"``.
    nlist
        Lists.
    ranks, nearest
        (c, t, s) and (c,) of `list_ranks`: of the lists that each of the true neighbours of each query stands in, the
        nearest of them first.
    lost
        For each number of bits, what `zarrvec.search.loss.losses` tells of each of `CALIBRATED_K`.
    """
    count, columns, _ = ranks.shape
    if not columns:  # a row alone has no neighbour that could be missed
        columns, ranks = 1, np.zeros((count, 1, 1), dtype=np.int32)
    grid = nprobe_grid(nlist)
    curves = []
    for at, k in enumerate(CALIBRATED_K):
        if k > columns and k != CALIBRATED_K[0]:
            break
        shares = _shares(ranks, k, grid)
        curves.append(
            Curve(
                k=k,
                recall=_plain(shares.mean(axis=1)),
                error=_plain(shares.std(axis=1) / np.sqrt(count)),
                loss={str(bits): shares[at] for bits, shares in lost.items()},
            )
        )
    return Calibration(
        source=source,
        queries=count,
        nprobe=grid,
        curves=tuple(curves),
        far=float(np.quantile(nearest, _FAR_SHARE)),
    )


def without_codes(calibration: Calibration) -> Calibration:
    """Return a calibration by which codes lose all, so that searches for a recall are exact."""
    curves = (
        msgspec.structs.replace(curve, loss=dict.fromkeys(curve.loss, 1.0)) for curve in calibration.curves
    )
    return msgspec.structs.replace(calibration, curves=tuple(curves))


def _shares(ranks: Int32, k: int, grid: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return (points, c): the share of the k nearest that stand in the lists probed, for each nprobe and query."""
    if not ranks.size:  # a single row, and no other to be near it
        return np.ones((len(grid), len(ranks)))
    best = ranks[:, :k].min(axis=2)
    return np.stack([(best < nprobe).mean(axis=1) for nprobe in grid])


def _plain(values: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
