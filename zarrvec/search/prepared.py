"""What is a search through an index, whatever the queries? Found out once, for all that ask for the same.

Source: ``specs/vector-index.md``, section "Search".
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zarrvec.search.blocks import grid_of
from zarrvec.search.depth import Depth, bytes_to_rank_again, candidates_for, depth_for
from zarrvec.search.index import Index
from zarrvec.search.metrics import Metric
from zarrvec.search.places import Snapshot

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of an index, whatever the queries."""

    k: int
    recall: float
    nprobe: int | None
    bits: int
    rerank: bool | None
    where: Mask | None
    """Of the leading shape: rows that may be hits."""
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """What a search is for all queries alike, in one view of an array. Make it with `prepare`."""

    snapshot: Snapshot
    """Of the array."""
    index: Index
    """Opened from it."""
    asked: Asked
    """By the caller."""
    depth: Depth
    """How far to look."""
    leading: tuple[int, ...]
    """Shape of the array without the width."""
    rows: int
    """Rows of the array."""
    selected: int
    """Of these, what may be found in lists."""
    allowed: Mask | None
    """(rows,) bool: which those are; None if all may."""
    fresh: Mask | None
    """(rows,) bool: what is compared exactly; None if nothing is."""

    @property
    def metric(self) -> Metric:
        """What the lists are ordered by."""
        return self.index.head.metric

    @property
    def share(self) -> float:
        """Part of the rows that may be found in lists."""
        return max(self.selected, 1) / max(self.rows, 1)

    @property
    def is_plain(self) -> bool:
        """Whether the nearest entries of the lists probed are the answer, by their codes."""
        return self.fresh is None and self.allowed is None and not self.depth.rerank

    @property
    def kept(self) -> int:
        """Entries kept for each query."""
        return candidates_for(self.asked.k, self.asked.bits) if self.depth.rerank else self.asked.k


def prepare(snapshot: Snapshot, index: Index, asked: Asked) -> Prepared:
    """Find out what does not depend on the queries.

    Parameters
    ----------
    snapshot
        Of the array.
    index
        Opened from it.
    asked
        Checked.
    """
    leading = snapshot.array.shape[:-1]
    rows = math.prod(leading)
    fresh = index.uncovered
    listed = asked.where
    if fresh is not None:
        listed = ~fresh if listed is None else listed & ~fresh
        fresh = fresh if asked.where is None else fresh & asked.where
    allowed = _living(index, rows, listed)
    fresh = None if fresh is None else _living(index, rows, fresh)
    selected = rows if allowed is None else int(np.count_nonzero(allowed))
    depth = depth_for(
        index.head,
        asked.recall,
        asked.k,
        share=max(selected, 1) / max(rows, 1),
        bits=asked.bits,
        nprobe=asked.nprobe,
        rerank=asked.rerank,
        reread_bytes=bytes_to_rank_again(grid_of(snapshot.array), asked.k, asked.bits),
    )
    return Prepared(
        snapshot=snapshot,
        index=index,
        asked=asked,
        depth=depth,
        leading=leading,
        rows=rows,
        selected=selected,
        allowed=allowed,
        fresh=fresh if fresh is not None and fresh.any() else None,
    )


def _living(index: Index, rows: int, mask: Mask | None) -> Mask | None:
    deleted = index.deleted[index.deleted < rows]
    if mask is None and not deleted.size:
        return None
    living = np.ones(rows, dtype=np.bool_) if mask is None else mask.reshape(-1).copy()
    living[deleted] = False
    return living
