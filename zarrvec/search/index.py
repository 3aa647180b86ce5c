"""What of an index is in memory, and how are its parts read and checked?

Source: ``specs/vector-index.md``, sections "Segments", "Coverage" and "Reading".
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptError
from zarrvec.faces import renumbering
from zarrvec.format.envelope import crc32c
from zarrvec.search.blocks import grid_of
from zarrvec.search.cache import ROOTS
from zarrvec.search.depth import Compass
from zarrvec.search.entries import EntriesReader
from zarrvec.search.head import MAX_COUNT, Deleted, Head, Segment
from zarrvec.search.list_table import SHARED_HEAD, ListTable, unpack_rows
from zarrvec.search.lists import keep_whole, parts_of
from zarrvec.search.places import Snapshot, undamaged
from zarrvec.search.records import Layout
from zarrvec.search.resident import Resident
from zarrvec.search.roots import Centroids, GroupedRoot, Part, Root
from zarrvec.search.sources import Want
from zarrvec.search.storing import ORIGIN
from zarrvec.search.units import STAGED, Generations, changed_units, stored_as

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

WHOLE_BYTES: Final = 8 << 20
"""An index up to this size is read whole, by the first wave of requests."""
_INDEX_BYTES: Final = 4 << 10
"""About what an open index takes besides its parts, which are held on their own."""
COVERAGE: Final = "coverage"
QUERIES: Final = "queries"
"""(c, d) float32: what the recall was measured on, if the caller gave it."""
UNCOVERED: Final = renumbering.UNCOVERED


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index, opened: all but the posting lists."""

    head: Head
    centroids: Root
    """Those of all segments."""
    parts: tuple[Part, ...]
    deleted: Int64
    """(n,) ids that are not to be found, ascending."""
    uncovered: npt.NDArray[np.bool_] | None
    """Of the leading shape of the array: rows that are in no list as they are now; None if there are none."""
    resident: dict[int, Resident]
    """By bits: its posting lists that are in memory."""

    @property
    def part_counts(self) -> Int64:
        """The (parts, nlist) entries of each list in each segment; see `Part` for which lists."""
        return (
            self.parts[0].counts[None]
            if len(self.parts) == 1
            else np.stack([part.counts for part in self.parts])
        )

    def counts(self) -> Int64:
        """Return the (nlist,) entries of each list, over all segments."""
        counts: Int64 = self.part_counts.sum(axis=0)
        return counts

    def sizes(self, bits: int, numbers: Int64 | slice = slice(None)) -> Int64:
        """Return the bytes of these lists, of all unless said otherwise; without low planes for 4 bits."""
        sizes: Int64 = np.sum([part.sizes(bits, numbers) for part in self.parts], axis=0)
        return sizes


def open_index(snapshot: Snapshot, head: Head) -> Index:
    """Open an index in one wave of requests, or none if it is in memory.

    Raises
    ------
    CorruptError
        If a part is missing or damaged.
    """
    opened = index_in_memory(snapshot)
    if opened is not None:
        return opened
    index = undamaged(lambda: _open_index(snapshot, head))
    if snapshot.token is not None:
        uncovered_bytes = 0 if index.uncovered is None else index.uncovered.nbytes
        ROOTS.put_many({_key(snapshot): (index, uncovered_bytes + _INDEX_BYTES)})
    return index


def index_in_memory(snapshot: Snapshot) -> Index | None:
    """Return the index if it is open and the cache has room for it."""
    key = _key(snapshot)
    held: Index | None = ROOTS.get_many([key]).get(key)
    return held


def _key(snapshot: Snapshot) -> tuple[str, Hashable, str]:
    return "index", snapshot.token, snapshot.index_path


def _open_index(snapshot: Snapshot, head: Head) -> Index:
    name = snapshot.index_path
    keys = [("segment", segment.id) for segment in head.segments]
    state = ("state", head.revision)
    held = ROOTS.get_many([*keys, state])
    missing = [segment for segment, key in zip(head.segments, keys, strict=True) if key not in held]
    readers = [EntriesReader.of(segment, head.layout.entry_bytes) for segment in missing]
    whole = readers if _fits(head) else []
    with_coverage = state not in held and head.units > 0
    deleted_ids = None if state in held else head.deleted_ids
    first = head.segments[0]
    with_origin = first.origin_crc32c is not None and first in missing
    rows = _rows_reader(first, head.layout) if first in missing else None
    cut = readers if rows is None else [*readers, rows]
    wants = [
        [
            Want(f"{segment.id}/{'lists' if segment.groups is None else 'groups'}/c/0/0")
            for segment in missing
        ],
        [Want(f"{first.id}/{ORIGIN}/c/0")] * with_origin,
        [want for reader in cut for want in reader.index_wants()],
        [Want(f"{COVERAGE}/c/0")] * with_coverage,
        [] if deleted_ids is None else [Want(f"{deleted_ids.id}/c/0")],
        [want for reader in whole for want in reader.wants([(0, reader.rows)])],
    ]
    later = [] if whole else [reader.first_key for reader in readers]
    data, generations = snapshot.read_with_generations([want for part in wants for want in part], later)
    tables, origins, indexes, coverage, deleted, entries = parts_of(data, map(len, wants))
    if whole:  # apart from the entries, which the same request brought
        tables = [memoryview(bytes(table)) for table in tables]
    origin = _origin(origins[0], head, f"{name}/{first.id}/{ORIGIN}") if with_origin else None
    for reader, shards in zip(
        cut, parts_of(indexes, [len(reader.index_wants()) for reader in cut]), strict=True
    ):
        reader.take_indexes(reader.index_wants(), shards, index_path=name)
    opened: dict[tuple[str, str], Any] = {}
    for segment, reader, table in zip(missing, readers, tables, strict=True):
        place = f"{name}/{segment.id}"
        if segment.groups is not None and rows is not None:
            part = Part.empty(segment, head, reader)
            root = GroupedRoot.of(table, segment.groups, head, origin, rows, part, f"{place}/groups")
            opened["segment", segment.id] = root, part
        else:
            opened["segment", segment.id] = _open_segment(
                segment, table, head, origin if segment is first else None, reader, place
            )
    if state not in held:
        opened[state] = (
            _numbers(coverage, "<u8", head.units, f"{name}/{COVERAGE}"),
            _deleted(deleted, head.deleted_ids, name),
        )
    lasting = set(opened)
    if snapshot.transaction is not None and snapshot.generation("zarr.json") == STAGED:
        lasting.discard(
            state
        )  # at the end of the transaction that wrote the head, the coverage may be written anew
    ROOTS.put_many({key: (opened[key], _size(opened[key])) for key in lasting})
    held |= opened
    blocks_of = parts_of(entries, (len(reader.wants([(0, reader.rows)])) for reader in whole))
    for segment, reader, blocks in zip(missing if whole else [], whole, blocks_of, strict=True):
        (block,) = reader.join([(0, reader.rows)], blocks)
        keep_whole(held["segment", segment.id][1], block, name)
    return Index(
        head=head,
        centroids=held[keys[0]][0],
        parts=tuple(held[key][1] for key in keys),
        deleted=held[state][1]
        if head.deleted_ids is None
        else renumbered(held[state][1], head.deleted_ids.leading, snapshot.array.shape[:-1]),
        uncovered=_uncovered(snapshot, head, generations, held[state][0]),
        resident={
            bits: Resident((segment.id for segment in head.segments), head.nlist, bits) for bits in (4, 8)
        },
    )


def _fits(head: Head) -> bool:
    """Return whether the index is read whole; shards must be looked up first, so those never are."""
    total = sum(segment.entries for segment in head.segments) * head.layout.entry_bytes
    return total <= WHOLE_BYTES and all(
        segment.shard_rows is None and segment.groups is None for segment in head.segments
    )


def _rows_reader(first: Segment, layout: Layout) -> EntriesReader | None:
    """Return what finds rows of the table of lists if it is read by groups."""
    groups = first.groups
    return (
        None
        if groups is None
        else EntriesReader(
            name=f"{first.id}/lists",
            rows=first.lists,
            entry_bytes=layout.list_bytes,
            chunk_rows=groups.chunk_rows,
            shard_rows=groups.shard_rows,
        )
    )


def _numbers(data: Sequence[memoryview], dtype: str, count: int, name: str) -> npt.NDArray[Any]:
    stored = data[0] if data else b""
    if len(stored) != count * np.dtype(dtype).itemsize:
        raise CorruptError(
            f"{name}: {len(stored)} bytes, expected {count} numbers of {np.dtype(dtype).itemsize}. "
            "Build the index anew: array.vec.build_index()."
        )
    return np.frombuffer(stored, dtype=dtype).copy()  # apart from what it was read with


def _origin(data: memoryview, head: Head, name: str) -> Float32:
    origin: Float32 = _numbers([data], "<f4", head.width, name)
    if crc32c(data) != head.segments[0].origin_crc32c or not np.isfinite(origin).all():
        raise CorruptError(f"{name}: doesn't match its checksum; rebuild the index.")
    return origin


def read_deleted(snapshot: Snapshot, head: Head) -> Int64:
    """Return the deleted ids, ascending, of an index of which nothing else may be readable.

    Raises
    ------
    CorruptError
        If they are missing or damaged.
    """
    told = head.deleted_ids
    wants = [] if told is None else [Want(f"{told.id}/c/0")]
    return undamaged(lambda: _deleted(snapshot.read(wants), told, snapshot.index_path))


def renumbered(ids: Int64, before: tuple[int, ...], leading: tuple[int, ...]) -> Int64:
    """Return ids of rows of one leading shape as another numbers them; those of other axes than the first may be cut off.

    Examples
    --------
    >>> renumbered(np.array([1, 5]), (2, 3), (2, 4)).tolist(), renumbered(np.array([1, 5]), (2, 3), (2, 2)).tolist()
    ([1, 6], [1])
    """
    if before[1:] == leading[1:]:
        return ids
    if len(before) != len(leading) or 0 in leading[1:]:
        return np.empty(0, dtype=np.int64)
    first, *rest = np.unravel_index(ids, (MAX_COUNT // math.prod(before[1:]) + 1, *before[1:]))
    there = np.logical_and.reduce([at < length for at, length in zip(rest, leading[1:], strict=True)])
    places = tuple(at[there] for at in (first, *rest))
    return np.ravel_multi_index(places, (MAX_COUNT // math.prod(leading[1:]) + 1, *leading[1:])).astype(
        np.int64, copy=False
    )


def _deleted(data: Sequence[memoryview], told: Deleted | None, name: str) -> Int64:
    if told is None:
        return np.empty(0, dtype=np.int64)
    ids: Int64 = _numbers(data, "<i8", told.count, f"{name}/{told.id}")
    wrong = crc32c(data[0]) != told.crc32c or ids[0] < 0 or ids[-1] > MAX_COUNT
    if wrong or (ids[1:] <= ids[:-1]).any():  # differences may be beyond int64
        raise CorruptError(
            f"{name}/{told.id}: the deleted ids don't match their checksum. Build the index without them: "
            "array.vec.drop_index(), then array.vec.build_index()."
        )
    return ids


def _open_segment(
    segment: Segment,
    data: memoryview,
    head: Head,
    origin: Float32 | None,
    entries: EntriesReader,
    name: str,
) -> tuple[Centroids | None, Part]:
    layout, nlist = head.layout, head.nlist
    if segment.lists_packed:
        data = unpack_rows(data, segment.lists, layout.list_bytes, name=f"{name}/lists").data
    if crc32c(data) != segment.lists_crc32c:
        raise CorruptError(f"{name}/lists: doesn't match its checksum; rebuild the index.")
    if segment is head.segments[0]:
        table = ListTable.decode(data, layout, name=f"{name}/lists")
        heads, numbers = table.heads, np.arange(len(table.heads))
        centroids = Centroids(Compass.of_table(table, head.metric), table, origin)
    else:
        if len(data) % SHARED_HEAD.itemsize:
            raise CorruptError(f"{name}/lists: {len(data)} bytes are no whole rows; rebuild the index.")
        heads = np.frombuffer(data, dtype=SHARED_HEAD)
        numbers, centroids = heads["list"].astype(np.int64), None
    if not (np.isfinite(heads["radius"]) & (heads["radius"] >= 0)).all():
        raise CorruptError(
            f"{name}/lists: the radius of a list is negative or not finite; rebuild the index."
        )
    if (
        len(heads) != segment.lists
        or int(heads["count"].sum(dtype=np.int64)) != segment.entries
        or (numbers >= nlist).any()
        or (np.diff(numbers) <= 0).any()
    ):
        raise CorruptError(
            f"{name}/lists: {len(heads)} lists of {heads['count'].sum(dtype=np.int64)} entries, expected "
            f"{segment.lists} of {segment.entries}; rebuild the index."
        )
    counts = heads["count"].astype(np.int64)
    offsets = np.cumsum(counts) - counts
    if centroids is not None and (heads["offset"] != offsets).any():
        raise CorruptError(f"{name}/lists: lists don't follow one another; rebuild the index.")
    part = Part.empty(segment, head, entries)
    part.fill(numbers, heads, offsets)
    return centroids, part


def _size(value: tuple[object, object]) -> int:
    return sum(held.nbytes for held in value if isinstance(held, Part | np.ndarray | Centroids | GroupedRoot))


def _uncovered(
    snapshot: Snapshot, head: Head, generations: Generations | None, coverage: Generations
) -> npt.NDArray[np.bool_] | None:
    leading = snapshot.array.shape[:-1]
    if snapshot.array.shape[1:] != (*head.leading[1:], head.width):
        return np.ones(leading, dtype=np.bool_)  # the ids in the lists count other rows
    if head.stored_as != stored_as(snapshot.array):
        return np.ones(leading, dtype=np.bool_)  # it was made anew
    if (generations is None) == bool(head.grid):
        return np.ones(leading, dtype=np.bool_)  # written where there are versions, copied where not, or so
    stale = None
    if generations is not None:
        units = snapshot.units()
        own = snapshot.generation(f"{COVERAGE}/c/0") if (coverage == STAGED).any() else None
        stale = changed_units(generations, units.grid, coverage, head.grid, staged_at=own)
        stale = grid_of(snapshot.array).rows_of(stale) if stale.any() else None
    if stale is None and leading == head.leading:
        return None
    uncovered = np.zeros(leading, dtype=np.bool_) if stale is None else stale
    uncovered[head.leading[0] :] = True
    return uncovered
