"""How are many values located, read together and checked?

Source: ``specs/storage-operations.md``, section "Reads".
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Final, NamedTuple, TypeAlias

from zarrvec.engine.recent import Recent
from zarrvec.engine.traffic import count_request, count_round
from zarrvec.engine.version import Version, View
from zarrvec.errors import CorruptError, MissingObjectError, StoredBytesError
from zarrvec.format.keys import is_metadata
from zarrvec.format.manifest import Root, decode_page, decode_root
from zarrvec.format.pack import check_value, pack_name
from zarrvec.format.table import CRC_BYTES, Table
from zarrvec.layout.coalesce import GAP_BYTES, READ_BYTES, Range, Read, coalesce, split_long
from zarrvec.objects.protocol import Data, Objects
from zarrvec.types import Entry, Location, PageRef

PAGE_CACHE_BYTES: Final = 64 << 20
KEPT_BYTES: Final = 32 << 20
"""Values that were changed in part, and the like, are kept up to this size: the next change of a part need not read them."""
CONCURRENCY: Final = 64
METADATA_AHEAD_BYTES: Final = 1 << 20
"""Pages of metadata documents are read all together up to this size."""
_THREAD_BYTES: Final = 256 << 10
"""More is copied in another thread; and checked, without a copy, from four times as much on."""
_THREAD_PAGES: Final = 4

ByteRange: TypeAlias = tuple[int, int | None] | None
"""(start, end) with the end exclusive or None for the value's end; a negative start counts from it; None for all."""


class Request(NamedTuple):
    """What is wanted of one key."""

    key: str
    byte_range: ByteRange = None


class Found(NamedTuple):
    """A value that was read, and the generation that it had."""

    data: bytes
    generation: int


class _Wanted(NamedTuple):
    """A value, or a part of it, that a request is to bring."""

    position: int
    """Of what asks for it."""
    entry: Entry
    """Where it is."""
    whole: bool
    """Whether it is all of the value, so that its checksum is read as well."""


class Reader:
    """Reads values and pages of one store, with a cache of pages, and of values that are changed part by part.

    Parameters
    ----------
    objects
        The object storage.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pages: Recent[Location, Table] = Recent(PAGE_CACHE_BYTES)
        self._kept: Recent[Location, bytes] = Recent(KEPT_BYTES)
        self._loading: dict[Location, asyncio.Task[dict[Location, Table]]] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def root(self, version: Version) -> Root:
        """Return the root of a version, reading it if it stands in a pack."""
        if version.root is None:
            commit = version.commit
            assert commit is not None
            assert commit.root_at is not None
            where = Location(*commit.root_at)
            count_round()
            number, name = commit.root_number or commit.number, self._name_of(where.pack, where.offset)
            decode = partial(decode_root, name=name, number=number)
            data = await self._get_range(Range(*where))
            try:
                version.root = decode(data)
            except StoredBytesError:  # a bit may have flipped on the way
                version.root = decode(await self._get_range(Range(*where)))
        return version.root

    async def pages(self, refs: Sequence[PageRef]) -> list[Table]:
        """Return manifest pages, from the cache or by few requests."""
        held = {ref.location: self._pages.get(ref.location) for ref in refs}
        tables = {location: table for location, table in held.items() if table is not None}
        missing = [ref for ref in refs if ref.location not in tables and ref.location not in self._loading]
        if missing:
            task = asyncio.ensure_future(self._load_pages(missing))
            for ref in missing:
                self._loading[ref.location] = task
            task.add_done_callback(lambda _: [self._loading.pop(ref.location) for ref in missing])
        awaited = {self._loading[ref.location] for ref in refs if ref.location not in tables}
        if awaited:
            count_round()
        for task in awaited:
            tables |= await asyncio.shield(task)
        return [tables[ref.location] for ref in refs]

    def keep_page(self, location: Location, table: Table) -> None:
        """Put a page into the cache."""
        self._pages.put(location, table, table.nbytes)

    def keep_value(self, entry: Entry, data: bytes) -> None:
        """Keep a value that is soon read again; it is in a pack now, or will be."""
        self._kept.put(Location(entry.pack, entry.offset, entry.length), data, len(data))

    async def _load_pages(self, refs: Sequence[PageRef]) -> dict[Location, Table]:
        parts = await self._fetch([Range(*ref.location) for ref in refs])

        def decode() -> tuple[dict[Location, Table], list[PageRef]]:
            """Decode the pages; return those that are damaged besides."""
            tables, damaged = {}, []
            for ref, data in zip(refs, parts, strict=True):
                try:
                    tables[ref.location] = self._page(ref, data)
                except StoredBytesError:
                    damaged.append(ref)
            return tables, damaged

        tables, damaged = await asyncio.to_thread(decode) if len(refs) > _THREAD_PAGES else decode()
        for ref in damaged:  # a bit may have flipped on the way
            tables[ref.location] = self._page(ref, await self._get_range(Range(*ref.location)))
        for location, table in tables.items():
            self.keep_page(location, table)
        return tables

    def _page(self, ref: PageRef, data: Data) -> Table:
        name = self._name_of(ref.location.pack, ref.location.offset)
        table = decode_page(data, name=name, number=ref.number)
        if len(table) != ref.count:
            raise CorruptError(f"{name}: the page has {len(table)} entries, the root says {ref.count}.")
        return table

    def _name_of(self, pack: bytes, offset: int) -> str:
        return f"{self._objects.name}/{pack_name(pack)} at {offset}"

    async def locate(self, view: View, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key in one pass; None where there is no value."""
        entries: list[Entry | None] = [view.find(key) for key in keys]
        unknown = [index for index, entry in enumerate(entries) if entry is None]
        if unknown:
            root = await self.root(view.version)
            by_page: dict[int, list[int]] = {}
            for index in unknown:
                page = root.page_of(keys[index])
                if page is not None:
                    by_page.setdefault(page, []).append(index)
            numbers = with_metadata_pages(root, list(by_page))
            tables = await self.pages([root.pages[number] for number in numbers])
            for number, table in zip(numbers, tables, strict=True):
                for index in by_page.get(number, ()):
                    entries[index] = table.find(keys[index])
        return [None if entry is None or entry.is_deleted else entry for entry in entries]

    async def read(
        self, view: View, requests: Sequence[Request], *, gap: int = GAP_BYTES
    ) -> list[Found | None]:
        """Read values, or parts of them; None where there is no value. Gaps up to `gap` bytes are read over."""
        entries = await self.locate(view, [request.key for request in requests])
        return await self.read_entries(
            [request.byte_range for request in requests], entries, requests, gap=gap
        )

    async def read_entries(
        self,
        byte_ranges: Sequence[ByteRange],
        entries: Sequence[Entry | None],
        requests: Sequence[Request],
        *,
        gap: int = GAP_BYTES,
    ) -> list[Found | None]:
        """Read what was located; whole values are checked against their CRC32C."""
        values = await self._read_values(byte_ranges, entries, requests, gap=gap, copy=True)
        return [
            None if value is None or entry is None else Found(bytes(value), entry.generation)
            for value, entry in zip(values, entries, strict=True)
        ]

    async def read_views(
        self, view: View, requests: Sequence[Request], *, gap: int = GAP_BYTES
    ) -> list[memoryview | None]:
        """Do what `read` does without copies: each value keeps all that its request brought in memory, gaps included."""
        entries = await self.locate(view, [request.key for request in requests])
        byte_ranges = [request.byte_range for request in requests]
        values = await self._read_values(byte_ranges, entries, requests, gap=gap, copy=False)
        return [None if value is None else memoryview(value) for value in values]

    async def _read_values(
        self,
        byte_ranges: Sequence[ByteRange],
        entries: Sequence[Entry | None],
        requests: Sequence[Request],
        *,
        gap: int,
        copy: bool,
    ) -> list[Data | None]:
        values: list[Data | None] = [None] * len(entries)
        ranges: list[Range] = []
        wanted: list[_Wanted] = []
        for index, (byte_range, entry) in enumerate(zip(byte_ranges, entries, strict=True)):
            if entry is None:
                continue
            start, stop = _bounds(byte_range, entry.length)
            data = entry.data
            if data is None:
                data = self._kept.get(Location(entry.pack, entry.offset, entry.length))
            if data is not None:
                values[index] = data[start:stop]
            elif stop == start and entry.length:
                values[index] = b""
            else:
                whole = start == 0 and stop == entry.length
                length = stop - start + (CRC_BYTES if whole else 0)
                ranges.append(Range(entry.pack, entry.offset + start, length))
                wanted.append(_Wanted(index, entry, whole))
        if ranges:
            reads = coalesce(ranges, gap=gap)
            count_round()
            await asyncio.gather(
                *(self._read_some(read, ranges, wanted, requests, values, copy=copy) for read in reads)
            )
        return values

    async def _read_some(
        self,
        read: Read,
        ranges: Sequence[Range],
        wanted: Sequence[_Wanted],
        requests: Sequence[Request],
        values: list[Data | None],
        *,
        copy: bool,
    ) -> None:
        data = await self._get_range(Range(read.pack, read.start, read.length))

        def cut() -> list[int]:
            """Cut the read into values; return those whose checksum fails."""
            view = memoryview(data)
            damaged = []
            for which in read.wanted:
                at = ranges[which].start - read.start
                part = view[at : at + ranges[which].length]
                if wanted[which].whole:
                    part, stored_crc = part[:-CRC_BYTES], part[-CRC_BYTES:]
                    try:
                        check_value(part, stored_crc, name="")
                    except CorruptError:
                        damaged.append(which)
                        continue
                values[wanted[which].position] = bytes(part) if copy else part
            return damaged

        checked = sum(ranges[which].length for which in read.wanted if wanted[which].whole)
        busy_bytes = read.length if copy else checked // 4
        damaged = await asyncio.to_thread(cut) if busy_bytes > _THREAD_BYTES else cut()
        for which in damaged:  # a bit may have flipped on the way: read the value once more, alone
            index, entry, _ = wanted[which]
            again = memoryview(await self._get_range(ranges[which]))
            name = f"{requests[index].key!r} in {self._name_of(entry.pack, entry.offset)}"
            values[index] = check_value(again[:-CRC_BYTES], again[-CRC_BYTES:], name=name)

    async def _fetch(self, ranges: Sequence[Range]) -> list[memoryview]:
        """Fetch ranges by few requests, without checks."""
        reads = coalesce(ranges)
        datas = await asyncio.gather(
            *(self._get_range(Range(read.pack, read.start, read.length)) for read in reads)
        )
        parts: dict[int, memoryview] = {}
        for read, data in zip(reads, datas, strict=True):
            view = memoryview(data)
            for which in read.wanted:
                at = ranges[which].start - read.start
                parts[which] = view[at : at + ranges[which].length]
        return [parts[which] for which in range(len(ranges))]

    async def _get_range(self, wanted: Range) -> Data:
        path = pack_name(wanted.pack)
        if wanted.length <= READ_BYTES:
            return await self._get_piece(path, wanted.start, wanted.length)
        pieces = split_long(wanted.start, wanted.length, size=READ_BYTES + READ_BYTES // 8)
        datas = await asyncio.gather(*(self._get_piece(path, start, length) for start, length in pieces))
        return datas[0] if len(datas) == 1 else b"".join(datas)

    async def _get_piece(self, path: str, start: int, length: int) -> Data:
        async with self._slots:
            try:
                data = await self._objects.get_range(path, start, length)
            except MissingObjectError as error:
                raise MissingObjectError(
                    f"{self._objects.name}/{path}: the manifest names this pack, but it is not there. It was deleted, "
                    "or the version is older than what garbage collection keeps; open a newer version."
                ) from error
        count_request(len(data))
        if len(data) != length:
            raise CorruptError(
                f"{self._objects.name}/{path}: {len(data)} bytes at {start}, expected {length}. The pack was cut short; "
                "restore it from a copy, `zarrvec verify` lists all that is damaged."
            )
        return data


def with_metadata_pages(root: Root, numbers: list[int]) -> list[int]:
    """Add all pages of metadata documents where one of them is read: who opens a group soon needs the others."""
    if not any(is_metadata(root.pages[number].first) for number in numbers):
        return numbers
    metadata = list(takewhile(lambda number: is_metadata(root.pages[number].first), range(len(root.pages))))
    if sum(root.pages[number].location.length for number in metadata) > METADATA_AHEAD_BYTES:
        return numbers
    return sorted({*numbers, *metadata})


def _bounds(byte_range: ByteRange, length: int) -> tuple[int, int]:
    if byte_range is None:
        return 0, length
    start, stop = byte_range
    if start < 0:
        return max(0, length + start), length
    start = min(start, length)
    return start, max(start, length if stop is None else min(stop, length))
