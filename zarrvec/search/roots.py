"""Where are the posting lists of an index, and which are near a query?

The table of lists is in memory, or it is read by groups as they are needed. Source: ``specs/vector-index.md``, sections
"Segments" and "Groups".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import crc32c
from zarrvec.search.cache import ROOTS
from zarrvec.search.depth import Compass, Probes, least, waves
from zarrvec.search.entries import EntriesReader, Span
from zarrvec.search.groups import Grouped, Nearness, groups_of
from zarrvec.search.head import Groups, Head, Segment
from zarrvec.search.list_table import ListTable
from zarrvec.search.places import Snapshot, undamaged
from zarrvec.search.records import Layout

_ANEW: Final = "Build the index anew: array.vec.build_index()."
_PAIRS: Final = 1 << 23
"""Pairs of a query and a list that are compared at once."""
_LISTS: Final = 1 << 12
"""Lists whose centroids are compared with queries at once: many, for BLAS, and few, for the memory of their decoded form."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A segment, opened. Lists are numbered alike in all segments.

    Of a first segment whose lists are read by groups, those that nobody has looked at yet have no entries here:
    `Root.probe` and `load` fill them in.
    """

    id: str
    layout: Layout
    offsets: Int64
    """(nlist,) first entry of each list."""
    counts: Int64
    """(nlist,) entries of each list."""
    crcs: npt.NDArray[np.uint32]
    """(nlist, 2) checksums of head and low planes."""
    radii: Float32
    """(nlist,) no row of the list is farther from the centroid."""
    entries: EntriesReader
    """Finds the bytes of its lists."""

    @classmethod
    def empty(cls, segment: Segment, head: Head, entries: EntriesReader) -> Self:
        """Make it without lists."""
        return cls(
            id=segment.id,
            layout=head.layout,
            offsets=np.zeros(head.nlist, dtype=np.int64),
            counts=np.zeros(head.nlist, dtype=np.int64),
            crcs=np.zeros((head.nlist, 2), dtype=np.uint32),
            radii=np.zeros(head.nlist, dtype=np.float32),
            entries=entries,
        )

    def fill(self, numbers: Int64 | slice, heads: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> None:
        """Take in what is known of some lists; several threads may take in the same."""
        self.offsets[numbers] = offsets
        self.crcs[numbers, 0], self.crcs[numbers, 1] = heads["crc_head"], heads["crc_low"]
        self.radii[numbers], self.counts[numbers] = heads["radius"], heads["count"]

    def sizes(self, bits: int, numbers: Int64 | slice = slice(None)) -> Int64:
        """Return the bytes of these lists, of all unless said otherwise; without low planes for 4 bits."""
        each = self.layout.total_bytes(1) if bits == 8 else self.layout.head_bytes(1)
        return self.counts[numbers] * each

    def spans(self, numbers: Int64, bits: int) -> list[Span]:
        """Return the entries to read for some lists; those of 4 bits end with a part of one."""
        starts = self.offsets[numbers]
        stops = starts - -self.sizes(bits, numbers) // self.layout.entry_bytes
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.offsets.nbytes + self.counts.nbytes + self.crcs.nbytes + self.radii.nbytes


class Root(Protocol):
    """The centroids of an index."""

    @property
    def origin(self) -> Float32 | None:
        """(d,) float32: what is taken off rows and queries; ``l2`` only."""

    @property
    def compass(self) -> Compass:
        """Where the lists lie, or their groups."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    def probe(self, snapshot: Snapshot, queries: Float32, nprobe: int) -> Probes:
        """Choose the lists of each query, see `zarrvec.search.depth.Compass.probe`; what isn't in memory is read in one wave."""

    def load(self, snapshot: Snapshot) -> "Centroids":
        """Return all of them; what isn't in memory is read in one wave."""

    def regrouped(self, pieces: Int64, centroids: Float32) -> Grouped | None:
        """Return groups for an index that differs by each list being so many, (nlist,); None if it has none."""


class Centroids(NamedTuple):
    """Centroids that are all in memory."""

    compass: Compass
    """For queries."""
    table: ListTable
    """As they are stored."""
    origin: Float32 | None
    """(d,) float32: what is taken off rows and queries; ``l2`` only."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.compass.nbytes

    def probe(self, snapshot: Snapshot, queries: Float32, nprobe: int) -> Probes:
        """Choose the lists of each query."""
        del snapshot
        return self.compass.probe(queries, nprobe)

    def load(self, snapshot: Snapshot) -> Self:
        """Return all of them."""
        del snapshot
        return self

    def regrouped(self, pieces: Int64, centroids: Float32) -> Grouped | None:
        """Return no groups."""
        del pieces, centroids
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedRoot:
    """Centroids that are read by groups, and kept in memory while there is room. Make it with `of`."""

    origin: Float32 | None
    """(d,) float32: what is taken off rows and queries; ``l2`` only."""
    compass: Compass
    """Of the groups."""
    heads: npt.NDArray[Any]
    """(groups,) of `LIST_HEAD`."""
    seen: float
    """Lists that a search looks at for each one that it probes."""
    rows: EntriesReader
    """Finds the rows of lists."""
    part: Part
    """The first segment, told of the lists of each group once."""
    is_filled: npt.NDArray[np.bool_]
    """(groups,) whether that was done."""

    @classmethod
    def of(
        cls,
        data: memoryview,
        told: Groups,
        head: Head,
        origin: Float32 | None,
        rows: EntriesReader,
        part: Part,
        name: str,
    ) -> Self:
        """Read groups as the head tells of them.

        Raises
        ------
        CorruptError
            If they are damaged.
        """
        table = ListTable.decode(data, head.layout, name=name)
        sizes = table.heads["count"].astype(np.int64)
        firsts = np.cumsum(sizes) - sizes
        if (
            crc32c(data) != told.crc32c
            or (len(sizes), sizes.sum()) != (told.count, head.nlist)
            or not sizes.all()
            or (table.heads["offset"] != firsts).any()
            or not (np.isfinite(table.heads["radius"]) & (table.heads["radius"] >= 0)).all()
        ):
            raise CorruptError(
                f"{name}: {len(sizes)} groups of {sizes.sum()} lists don't match their checksum, aren't the {told.count} of "
                f"{head.nlist} that the head names, or have a radius that is negative or not finite. {_ANEW}"
            )
        return cls(
            origin=origin,
            compass=Compass.of_table(table, head.metric),
            heads=table.heads,
            seen=told.seen,
            rows=rows,
            part=part,
            is_filled=np.zeros(len(sizes), dtype=np.bool_),
        )

    @property
    def nbytes(self) -> int:
        """Bytes in memory, without lists."""
        return self.compass.nbytes + self.heads.nbytes

    def probe(self, snapshot: Snapshot, queries: Float32, nprobe: int) -> Probes:
        """Choose the lists of each query among those in the groups nearest to it."""
        sizes = self.heads["count"].astype(np.int64)
        near = Nearness.of(self.compass, sizes, queries)
        seen = near.seen(self.seen, nprobe)
        groups = np.unique(near.order[seen])
        rows = self._rows(snapshot, groups, keep=True)
        width = int((near.before + sizes[near.order])[seen].max())
        begins = np.full(seen.shape, -1, dtype=np.int64)
        np.put_along_axis(begins, near.order, np.where(seen, near.before, -1), axis=1)
        step = max(1, _PAIRS // width)
        parts = [
            self._choose(queries[at : at + step], begins[at : at + step], width, rows, nprobe)
            for at in range(0, len(queries), step)
        ]
        return Probes(*map(np.concatenate, zip(*parts, strict=True)))

    def _choose(
        self, queries: Float32, begins: Int64, width: int, held: dict[int, Bytes], nprobe: int
    ) -> Probes:
        """Choose among lists in a row for each query, in which those of each group begin where it is said; at -1: nowhere."""
        keys = np.full((len(queries), width), np.inf, dtype=np.float32)
        products = np.zeros_like(keys)
        lists = np.zeros(keys.shape, dtype=np.int64)
        nearest = np.full(len(queries), np.inf, dtype=np.float32)
        groups = np.flatnonzero((begins >= 0).any(axis=0))
        for wave in waves(groups, self.heads["count"][groups], _LISTS):
            table = self._decoded([held[number] for number in wave.tolist()])
            compass = Compass.of_table(table, self.compass.metric)
            sizes = self.heads["count"][wave]
            within = np.concatenate([np.arange(size) for size in sizes])
            numbers = np.repeat(self.heads["offset"][wave].astype(np.int64), sizes) + within
            rows = np.flatnonzero((begins[:, wave] >= 0).any(axis=1))
            found = compass.keys(queries[rows])
            first = np.repeat(begins[np.ix_(rows, wave)], sizes, axis=1)
            row, column = np.nonzero(first >= 0)
            at = rows[row], first[row, column] + within[column]
            keys[at], products[at], lists[at] = found[0][row, column], found[1][row, column], numbers[column]
            away = np.where(first >= 0, compass.squares - 2 * found[1], np.float32(np.inf))
            nearest[rows] = np.minimum(nearest[rows], away.min(axis=1))
        chosen = least(keys, min(nprobe, self.rows.rows))
        nearest += np.einsum("ij,ij->i", queries, queries)
        return Probes(
            np.take_along_axis(lists, chosen, axis=1),
            np.take_along_axis(products, chosen, axis=1),
            np.maximum(nearest, 0),
        )

    def _key(self, number: int) -> tuple[str, str, int]:
        return "group", self.rows.name, number

    def _span(self, number: int) -> Span:
        first = int(self.heads["offset"][number])
        return first, first + int(self.heads["count"][number])

    def load(self, snapshot: Snapshot) -> Centroids:
        """Return all centroids; they are kept in memory if they fit."""
        key = ("all lists", self.rows.name)
        held = ROOTS.get_many([key])
        if held and self.is_filled.all():
            loaded: Centroids = held[key]
            return loaded
        groups = np.arange(len(self.heads))
        rows = self._rows(snapshot, groups, keep=False)
        table = self._decoded([rows[number] for number in groups.tolist()])
        compass = Compass.of_table(table, self.compass.metric)
        loaded = Centroids(compass, table, self.origin)
        ROOTS.put_many({key: (loaded, loaded.nbytes)})
        return loaded

    def regrouped(self, pieces: Int64, centroids: Float32) -> Grouped | None:
        """Return groups for lists each of which has become so many; `centroids` are theirs."""
        sizes = np.add.reduceat(pieces, self.heads["offset"].astype(np.int64))
        return Grouped(groups_of(centroids, sizes), self.seen)

    def _rows(self, snapshot: Snapshot, groups: Int64, *, keep: bool) -> dict[int, Bytes]:
        """Return the rows of the table for ascending groups, from memory or by one wave of requests, checked."""
        numbers = groups.tolist()
        held: dict[Any, Bytes] = ROOTS.get_many([self._key(number) for number in numbers])
        rows = {number: data for (*_, number), data in held.items()}
        missing = [number for number in numbers if number not in rows]
        spans = [self._span(number) for number in missing]

        def read_missing() -> dict[int, Bytes]:
            blocks = self.rows.join(spans, snapshot.read(self.rows.wants(spans)))
            return {
                number: self._checked(number, block, snapshot.index_path)
                for number, block in zip(missing, blocks, strict=True)
            }

        read = undamaged(read_missing) if missing else {}
        if keep:
            ROOTS.put_many({self._key(number): (data, data.nbytes) for number, data in read.items()})
        rows |= read
        for number in groups[~self.is_filled[groups]].tolist():
            heads = self._decoded([rows[number]]).heads
            self.part.fill(slice(*self._span(number)), heads, heads["offset"])
            self.is_filled[number] = True
        return rows

    def _checked(self, number: int, block: memoryview | bytes, index_path: str) -> Bytes:
        first, end = self._span(number)
        wrong = f"{index_path}/{self.rows.name}: the rows {first} to {end} of group {number}"
        data: Bytes = np.frombuffer(block, dtype=np.uint8).copy()  # apart from what it was read with
        if crc32c(data) != self.heads["crc_head"][number]:
            raise CorruptError(f"{wrong} don't match their checksum. {_ANEW}")
        heads = self._decoded([data]).heads
        offsets, counts = heads["offset"], heads["count"].astype(np.uint64)
        total = np.uint64(self.part.entries.rows)
        if (
            not (np.isfinite(heads["radius"]) & (heads["radius"] >= 0)).all()
            or (offsets > total).any()
            or (counts > total - offsets).any()
            or (offsets[1:] != (offsets + counts)[:-1]).any()
        ):
            raise CorruptError(
                f"{wrong}: a radius that is negative or not finite, lists that don't follow one another, or one beyond the {total} "
                f"entries. {_ANEW}"
            )
        return data

    def _decoded(self, rows: Sequence[Bytes]) -> ListTable:
        return ListTable.decode(np.concatenate(rows), self.part.layout, name=self.rows.name)
