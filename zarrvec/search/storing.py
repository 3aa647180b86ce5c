"""How are posting lists written into the arrays of a segment?

Source: ``specs/vector-index.md``, section "Segments".
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import zarr
from zarr.types import AnyArray

from zarrvec.format.envelope import crc32c
from zarrvec.search.arrays import create_entries, unit_of, write_rows, write_whole
from zarrvec.search.groups import Grouped
from zarrvec.search.head import Groups, Segment
from zarrvec.search.list_table import MAX_PACKED_BYTES, SHARED_HEAD, ListTable
from zarrvec.search.records import LIST_HEAD, Checksums, Layout, Packed
from zarrvec.search.spool import Spool

Int64 = npt.NDArray[np.int64]
ORIGIN: Final = "origin"
_PIECE_ENTRIES: Final = 1 << 13


class Lists(Protocol):
    """The entries of all lists of a segment."""

    @property
    def ahead(self) -> bool:
        """Whether each chunk is sent as soon as it is full, of which there are two where one would do."""

    def write(
        self, array: AnyArray, counts: Int64, layout: Layout, progress: Callable[[int, int], None] | None
    ) -> Checksums:
        """Write them into an array of entries; return the checksums of each list. It may be called again.

        Parameters
        ----------
        array
            Of `zarrvec.search.arrays.create_entries`, new.
        counts
            (nlist,) entries of each list.
        layout
            Of the lists.
        progress
            Called with the lists written and all of them.
        """

    def close(self) -> None:
        """Let go of them."""


class SpooledLists:
    """Those that wait in a spool.

    Parameters
    ----------
    spool, order
        Where they are, and the positions of the entries there, list by list.
    ahead
        See `Lists`.
    """

    def __init__(self, spool: Spool, order: Int64, *, ahead: bool = False) -> None:
        self._spool = spool
        self._order = order
        self.ahead: Final = ahead

    def write(
        self, array: AnyArray, counts: Int64, layout: Layout, progress: Callable[[int, int], None] | None
    ) -> Checksums:
        """See `Lists`."""
        packed = pack_runs(lambda run, counts: self._spool.packed(self._order[run], counts), counts)
        return write_lists(array, packed, counts, layout, progress=progress, ahead=self.ahead)

    def close(self) -> None:
        """See `Lists`."""
        self._spool.__exit__(None, None, None)


def runs_of_lists(counts: Int64) -> Iterator[tuple[slice, slice]]:
    """Cut lists into pieces; yield which lists each has, and which entries these are.

    Examples
    --------
    >>> list(runs_of_lists(np.array([5_000, 3_000, 500])))
    [(slice(0, 2, None), slice(0, 8000, None)), (slice(2, 3, None), slice(8000, 8500, None))]
    """
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        start = int(ends[first] - counts[first])
        last = max(first + 1, int(np.searchsorted(ends, start + _PIECE_ENTRIES, side="right")))
        yield slice(first, last), slice(start, int(ends[last - 1]))
        first = last


def pack_runs(pack: Callable[[slice, Int64], Packed], counts: Int64) -> Iterator[Packed]:
    """Yield the bytes of lists, some at a time; `pack` returns those of some entries, given how many each list has."""
    for lists, run in runs_of_lists(counts):
        yield pack(run, counts[lists])


def write_lists(
    array: AnyArray,
    packed: Iterable[Packed],
    counts: Int64,
    layout: Layout,
    *,
    start: int = 0,
    rows: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    ahead: bool = False,
) -> Checksums:
    """Write lists that follow each other into an array of entries; return their checksums.

    Parameters
    ----------
    array
        Of entries.
    packed
        Their bytes, one or more whole lists at a time.
    counts
        (n,) entries of each.
    layout
        Of the lists.
    start
        Where the first of them begins in the array.
    rows
        First row that is written, and the one after the last; what the lists have besides is left out. None for all rows.
    progress
        Called with the lists written and all of them.
    ahead
        Whether each chunk is sent as soon as it is full.
    """
    ends = np.cumsum(counts)
    crcs = np.zeros((len(counts), 2), dtype=np.uint32)
    writer = _Writer(array, start, (0, array.shape[0]) if rows is None else rows, ahead=ahead)
    done = taken = 0
    for piece in packed:
        taken += len(piece) // layout.entry_bytes
        last = int(np.searchsorted(ends, taken, side="right"))
        crcs[done:last] = layout.checksums(piece, counts[done:last])
        writer.add(piece.data)
        done = last
        if progress is not None:
            progress(done, len(counts))
    return crcs


def write_segment(
    group: zarr.Group,
    name: str,
    lists: Lists,
    *,
    counts: Int64,
    layout: Layout,
    rows: int,
    spread: float,
    radii: npt.NDArray[np.float32],
    centroids: ListTable | None,
    groups: Grouped | None = None,
    origin: npt.NDArray[np.float32] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Segment:
    """Write a segment below the group of an index.

    Parameters
    ----------
    group
        Of the index.
    name
        Of the segment, unused so far.
    lists
        The entries of the lists, in the order of their numbers.
    counts
        (nlist,) how many each has.
    rows
        Rows of the source in the segment.
    spread
        Mean of their squared distances to the nearest centroid.
    radii
        (nlist,) float32: no row of the list is farther from the centroid.
    centroids
        The centroids, with their scales, if this is the first segment; None if it shares those of the first.
    groups
        Of the lists, if they are to be read by groups.
    origin
        (d,) of the space of the first segment, if it has one.
    progress
        Called with the lists written and all of them.
    """
    ends = np.cumsum(counts)
    offsets, total = ends - counts, int(counts.sum())
    array = create_entries(group, f"{name}/entries", total, layout.entry_bytes, apart=lists.ahead)
    crcs = lists.write(array, counts, layout, progress)
    if centroids is not None:
        chosen = np.arange(len(counts))
        table = np.zeros(len(counts), dtype=LIST_HEAD)
        table["offset"], table["scale"] = offsets, centroids.heads["scale"]
    else:
        chosen = np.flatnonzero(counts)
        table = np.zeros(len(chosen), dtype=SHARED_HEAD)
        table["list"] = chosen
    table["count"], table["radius"] = counts[chosen], radii[chosen]
    table["crc_head"], table["crc_low"] = crcs[chosen, 0], crcs[chosen, 1]
    raw = (
        ListTable(table, centroids.centroids).encode()
        if centroids is not None
        else table.view(np.uint8).reshape(len(table), SHARED_HEAD.itemsize)
    )
    told = None
    packed = centroids is not None and groups is None and raw.nbytes <= MAX_PACKED_BYTES
    if groups is None:
        write_whole(group, f"{name}/lists", raw, packed=packed, keep=centroids is None)
    else:
        told = _write_groups(group, name, raw, groups)
    origin_crc32c = None
    if origin is not None:
        stored = origin.astype("<f4")
        write_whole(group, f"{name}/{ORIGIN}", stored)
        origin_crc32c = crc32c(stored.view(np.uint8))
    return Segment(
        id=name,
        entries=total,
        rows=rows,
        spread=spread,
        lists=len(table),
        lists_crc32c=crc32c(raw),
        lists_packed=packed,
        origin_crc32c=origin_crc32c,
        groups=told,
        chunk_rows=array.chunks[0],
        shard_rows=None if array.shards is None else array.shards[0],
    )


def _write_groups(group: zarr.Group, name: str, rows: npt.NDArray[np.uint8], groups: Grouped) -> Groups:
    """Write a table of lists that is read by groups, and what is known of these."""
    array = create_entries(group, f"{name}/lists", *rows.shape)
    for start in range(0, len(rows), unit_of(array)):
        write_rows(array, start, rows[start : start + unit_of(array)].tobytes())
    heads = groups.table.heads.copy()
    firsts, sizes = heads["offset"].tolist(), heads["count"].tolist()
    heads["crc_head"] = [
        crc32c(rows[first : first + size]) for first, size in zip(firsts, sizes, strict=True)
    ]
    raw = ListTable(heads, groups.table.centroids).encode()
    write_whole(group, f"{name}/groups", raw)
    return Groups(
        count=len(heads),
        crc32c=crc32c(raw),
        seen=groups.seen,
        chunk_rows=array.chunks[0],
        shard_rows=None if array.shards is None else array.shards[0],
    )


class _Writer:
    """Writes whole chunks (or shards) of an entries array, of bytes that come in any pieces; those outside of some rows are left out."""

    def __init__(self, array: AnyArray, start: int, rows: tuple[int, int], *, ahead: bool) -> None:
        self._array = array
        self._ahead = ahead
        self._unit = unit_of(array)
        self._width = array.shape[1]
        self._row, self._stop = rows
        self._skipped = (self._row - start) * self._width
        """Bytes that come before those that are written."""
        self._parts: list[memoryview] = []
        """The bytes of a chunk that are there."""
        self._missing = 0
        """Those that are not, if some are."""

    def add(self, packed: memoryview) -> None:
        """Take the bytes of whole entries."""
        left = packed[self._skipped :]
        self._skipped -= min(self._skipped, len(packed))
        while left and self._row < self._stop:
            end = min((self._row // self._unit + 1) * self._unit, self._stop)
            if not self._parts:
                self._missing = (end - self._row) * self._width
            self._parts.append(left[: self._missing])
            left = left[len(self._parts[-1]) :]
            self._missing -= len(self._parts[-1])
            if not self._missing:
                ahead = self._ahead and end < self._stop
                write_rows(self._array, self._row, *self._parts, ahead=ahead)
                self._row, self._parts = end, []
