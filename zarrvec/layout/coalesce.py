"""Which reads are done together?

Two ranges of one pack become one read while the gap between them costs less than a request; a long run is cut into
reads of about equal size that go on side by side.

Source: ``specs/storage-operations.md``, section "Reads".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

GAP_BYTES: Final = 256 << 10
"""A request at 3 ms and 85 MB/s costs what these bytes cost."""
READ_BYTES: Final = 8 << 20
"""A merged read is at most about this long."""


class Range(NamedTuple):
    """Bytes wanted from a pack."""

    pack: bytes
    """Id of the pack."""
    start: int
    """First byte."""
    length: int
    """Number of bytes."""


@dataclass(frozen=True, slots=True)
class Read:
    """One request, and which of the wanted ranges it brings."""

    pack: bytes
    """Id of the pack."""
    start: int
    """First byte."""
    length: int
    """Number of bytes."""
    wanted: tuple[int, ...]
    """Indices of the ranges that lie in it."""


def coalesce(ranges: Sequence[Range], *, gap: int = GAP_BYTES, size: int = READ_BYTES) -> list[Read]:
    """Plan the requests for some ranges.

    Every range is brought whole by exactly one read; a range longer than `size` has a read of its own.

    Examples
    --------
    >>> [(read.start, read.length) for read in coalesce([Range(b"p", 0, 10), Range(b"p", 20, 5)], gap=10)]
    [(0, 25)]
    """
    order = sorted(range(len(ranges)), key=lambda index: ranges[index])
    reads: list[Read] = []
    run: list[int] = []
    pack, end = b"", 0
    for index in order:
        wanted = ranges[index]
        if run and (wanted.pack != pack or wanted.start - end > gap):
            reads.extend(_cut(ranges, run, gap, size))
            run = []
        if not run:
            pack, end = wanted.pack, wanted.start
        run.append(index)
        end = max(end, wanted.start + wanted.length)
    if run:
        reads.extend(_cut(ranges, run, gap, size))
    return reads


def split_long(start: int, length: int, *, size: int = READ_BYTES) -> list[tuple[int, int]]:
    """Cut one long read into parts of about equal length, each at most `size`.

    Examples
    --------
    >>> split_long(0, 10, size=4)
    [(0, 4), (4, 4), (8, 2)]
    """
    parts = max(1, -(-length // size))
    step = -(-length // parts)
    return [(at, min(step, start + length - at)) for at in range(start, start + length, step)] or [(start, 0)]


def _cut(ranges: Sequence[Range], run: list[int], gap: int, size: int) -> list[Read]:
    start = ranges[run[0]].start
    end = max(ranges[index].start + ranges[index].length for index in run)
    parts = max(1, -(-(end - start) // size))
    target = (end - start) / parts
    reads: list[Read] = []
    held: list[int] = []
    held_start, held_end = start, start
    for index in run:
        at = ranges[index].start
        stop = max(held_end, at + ranges[index].length)
        if held and (
            stop - held_start > size
            or at - start >= target * (len(reads) + 1)
            or at - held_end > gap  # a long range that has a read of its own covers what is between
        ):
            reads.append(Read(ranges[index].pack, held_start, held_end - held_start, tuple(held)))
            held, held_start, stop = [], at, at + ranges[index].length
        held.append(index)
        held_end = stop
    reads.append(Read(ranges[run[0]].pack, held_start, held_end - held_start, tuple(held)))
    return reads
