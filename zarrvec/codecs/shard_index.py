"""Where in a shard do inner chunks lie, and which reads bring them?

Source: the Zarr core specification's codec ``sharding_indexed``, section "Binary shard format".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptShardError
from zarrvec.layout.coalesce import Range, Read, coalesce

EMPTY: Final = 2**64 - 1
"""Offset and length of an inner chunk that is not there."""
_END_LIMIT: Final = 2**63 - 1

Coords: TypeAlias = tuple[int, ...]


class Span(NamedTuple):
    """Bytes of a shard."""

    start: int
    """First byte."""
    length: int
    """Number of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardIndex:
    """The index of one shard, as it was read."""

    name: str
    """The shard's store and key, for messages."""
    entries: npt.NDArray[np.uint64]
    """Offset and length of each inner chunk, (*chunks_per_shard, 2)."""
    version: Any = None
    """What the storage calls this state of the shard; None if it has no name for it."""
    size_bytes: int | None = None
    """Length of the shard, where reading the index told."""

    def locate(self, wanted: Sequence[Coords]) -> dict[Span, list[Coords]]:
        """Return where inner chunks lie; those that are not there are left out.

        Parameters
        ----------
        wanted
            Coordinates in the shard's grid of inner chunks.

        Returns
        -------
        dict of Span to list of coordinates
            Several inner chunks may share one span.

        Raises
        ------
        CorruptShardError
            If one lies beyond the end of the shard.

        Examples
        --------
        >>> entries = np.array([[0, 7], [EMPTY, EMPTY], [0, 7]], dtype="u8")
        >>> ShardIndex(name="x/c/0", entries=entries).locate([(0,), (1,), (2,)])
        {Span(start=0, length=7): [(0,), (2,)]}
        """
        grid = self.entries.shape[:-1]
        rows = [0] * len(wanted)
        if grid and wanted:
            rows = np.ravel_multi_index(tuple(np.array(wanted).T), grid).tolist()
        spans: dict[Span, list[Coords]] = {}
        limit = _END_LIMIT if self.size_bytes is None else self.size_bytes
        for coords, (start, length) in zip(wanted, self.entries.reshape(-1, 2)[rows].tolist(), strict=True):
            if start == length == EMPTY:
                continue
            if start + length > limit:
                raise CorruptShardError(
                    f"{self.name}: its index places inner chunk {coords} at bytes {start} to {start + length}, but the shard "
                    f"{'can not be so long' if self.size_bytes is None else f'has {limit}'}. "
                    "It is damaged: restore it, or write the whole shard anew."
                )
            span = Span(start, length)
            if span in spans:
                spans[span].append(coords)
            else:
                spans[span] = [coords]
        return spans


def plan_reads(
    spans: Sequence[Span], *, gap_bytes: int, read_bytes: int, size_bytes: int | None = None
) -> list[Read]:
    """Plan the requests for some spans of one shard.

    Parameters
    ----------
    spans
        What is wanted.
    gap_bytes, read_bytes
        Neighbours that are at most so far apart become one read, of at most about so many bytes.
    size_bytes
        Length of the shard, if it is known.

    Returns
    -------
    list of Read
        Together never longer than the shard, even if spans overlap.

    Examples
    --------
    >>> [read.length for read in plan_reads([Span(0, 10), Span(12, 8), Span(99, 1)], gap_bytes=4, read_bytes=100)]
    [20, 1]
    """
    ranges = [Range(b"", span.start, span.length) for span in spans]
    reads = coalesce(ranges, gap=gap_bytes, size=read_bytes)
    if size_bytes is None or sum(read.length for read in reads) <= size_bytes:
        return reads
    start = min(span.start for span in spans)
    end = max(span.start + span.length for span in spans)
    return [Read(b"", start, end - start, tuple(range(len(spans))))]
