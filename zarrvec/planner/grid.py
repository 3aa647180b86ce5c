"""How many chunks does a run of cells touch, on average over where it may begin?

Pure. Source: ``specs/planner.md``, section "Counting chunks".
"""

import math
from functools import lru_cache
from typing import Final

_CACHED: Final = 1 << 16


@lru_cache(maxsize=_CACHED)
def touched_anywhere(size: int, length: int, chunk: int) -> float:
    """Return how many chunks a run touches that may begin at any cell where it fits.

    Parameters
    ----------
    size
        Cells along the axis.
    length
        Cells of the run.
    chunk
        Cells of a chunk.

    Examples
    --------
    >>> touched_anywhere(100, 10, 10), touched_anywhere(100, 1, 7), touched_anywhere(100, 100, 30)
    (1.89010989010989, 1.0, 4.0)
    """
    starts = size - length + 1
    last = _sum_of_quotients(size, chunk) - _sum_of_quotients(length - 1, chunk)
    return (last - _sum_of_quotients(starts, chunk)) / starts + 1


def touched_by_tiles(size: int, length: int, chunk: int) -> int:
    """Return how many chunks all runs touch together that lie one behind the other, each counted for each of its chunks.

    Examples
    --------
    >>> touched_by_tiles(100, 10, 10), touched_by_tiles(100, 10, 15), touched_by_tiles(100, 10, 100)
    (10, 13, 10)
    """
    tiles, chunks = -(-size // length), -(-size // chunk)
    shared = (tiles - 1) * length // math.lcm(length, chunk)
    return chunks + tiles - 1 - shared


def distinct(chunks: int, touched: float, blocks: int) -> float:
    """Return how many of the chunks along an axis are touched by blocks at random places.

    Examples
    --------
    >>> round(distinct(1000, 1, 500), 1), distinct(10, 1.0, 1)
    (393.6, 1.0)
    """
    if blocks <= 1:
        return min(float(chunks), touched)
    return chunks * -math.expm1(blocks * math.log1p(-min(1 - 1e-12, touched / chunks)))


def covered_anywhere(size: int, length: int, chunk: int) -> float:
    """Return how many chunks a run covers whole that may begin at any cell where it fits; the last one to the end of the axis.

    Examples
    --------
    >>> covered_anywhere(100, 100, 30), covered_anywhere(100, 10, 10) < 0.2, covered_anywhere(100, 5, 10)
    (4.0, True, 0.0)
    """
    starts = size - length + 1
    at_the_end = int(size % chunk > 0 and size - length <= size // chunk * chunk)
    if length < chunk:
        return at_the_end / starts
    ends = _sum_of_quotients(size + 1, chunk) - _sum_of_quotients(length, chunk)
    begins = _sum_of_quotients(size - length + chunk, chunk) - _sum_of_quotients(chunk - 1, chunk)
    return (ends - begins + at_the_end) / starts


def _sum_of_quotients(count: int, chunk: int) -> int:
    """Return the sum of ``x // chunk`` over all x below `count`."""
    whole, rest = divmod(count, chunk)
    return chunk * whole * (whole - 1) // 2 + whole * rest
