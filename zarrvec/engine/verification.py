"""Is every byte that a version reaches still what was written? Reads all of it and goes on after damage.

Source: ``specs/storage-operations.md``, section "Verification".
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from zarrvec.engine.engine import Engine
from zarrvec.engine.heads import commit_path, read_commit, tag_path
from zarrvec.engine.reader import Reader
from zarrvec.engine.version import Version, open_version
from zarrvec.errors import CorruptError, MissingObjectError, StorageError, StoredBytesError
from zarrvec.format.keys import sort_key
from zarrvec.format.manifest import Root
from zarrvec.format.pack import (
    HEADER,
    TRAILER,
    check_header,
    check_value,
    decode_footer,
    footer_length,
    pack_name,
)
from zarrvec.format.table import CRC_BYTES, Table
from zarrvec.layout.coalesce import Range, Read, coalesce, split_long
from zarrvec.types import Entry, PageRef

PAGES_AT_ONCE: Final = 16
READS_AT_ONCE: Final = 8
TAIL_BYTES: Final = 64 << 10
"""Of a pack's end are read at once: mostly its whole footer."""

Progress = Callable[[int, int], None]
"""Called with the bytes of values that are done, and those there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that does not hold."""

    object: str
    """Path of the object below the store's root."""
    key: str | None
    """Key whose value is lost; None where a structure is damaged."""
    problem: str
    """What does not hold."""


@dataclass(slots=True, kw_only=True)
class Verification:
    """What a verification read, and what it found."""

    number: int = 0
    """Number of the commit, 0 if it can't be read."""
    commits: int = 0
    """Commits and tags whose checksum was checked."""
    packs: int = 0
    """Packs whose header, footer and trailer were checked."""
    pages: int = 0
    """Manifest pages whose checksum and key order were checked."""
    values: int = 0
    """Values that were read, those held inline included."""
    value_bytes: int = 0
    """Bytes of values that were read."""
    damages: list[Damage] = field(default_factory=list)
    """All that does not hold."""


class _Value(NamedTuple):
    key: str
    entry: Entry


async def verify(
    engine: Engine, ref: str | int | datetime | None = None, on_progress: Progress | None = None
) -> Verification:
    """Read every byte that a version reaches against its checksum, and every page against the key order.

    Also checked are the other commits of the branch and the tags, and the header, footer and trailer of every pack that
    the version names.

    Parameters
    ----------
    engine
        Of the store.
    ref
        A commit's number or id, a tag or a time; None for the newest.
    on_progress
        Is told how far it is.

    Returns
    -------
    Verification
        With all damage; nothing is raised for damage.

    Raises
    ------
    RefNotFoundError
        If there is no such version.
    AccessError
        If the storage can't be read at all.
    """
    work = _Verifier(engine, on_progress)
    await work.check_commits()
    try:
        version = await _open(engine, ref)
    except StoredBytesError as error:
        work.add_error(error)
    else:
        await work.check_version(version)
    return work.result


async def _open(engine: Engine, ref: str | int | datetime | None) -> Version:
    """Open a version from its stored bytes, whatever this process remembers of it."""
    if ref is not None:
        return await engine.resolve(ref)
    numbers = await engine.heads.numbers()
    commit = await engine.heads.read(numbers[0]) if numbers else None
    return open_version(commit) if commit is not None else await engine.current(checked_after=-1.0)


class _Verifier:
    def __init__(self, engine: Engine, on_progress: Progress | None) -> None:
        self._engine = engine
        self._objects = engine.objects
        self._reader = Reader(engine.objects)  # with no page in its cache
        self._on_progress = on_progress
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._total_bytes = 0
        self._done_bytes = 0
        self.result = Verification()

    def add(self, path: str, key: str | None, problem: str) -> None:
        damage = Damage(object=path, key=key, problem=problem)
        if damage not in self.result.damages[-64:]:
            self.result.damages.append(damage)

    def add_error(self, error: Exception, path: str | None = None, key: str | None = None) -> None:
        """Note an error; its message starts with the object unless that is given."""
        message = str(error).removeprefix(f"{self._objects.name}/")
        if path is None:
            path, _, message = message.partition(": ")
        self.add(path, key, message.removeprefix(f"{path}: "))

    # -- commits --------------------------------------------------------------------------------------------------

    async def check_commits(self) -> None:
        heads = self._engine.heads
        branch_numbers = await heads.numbers()
        await self._each([self._check_commit(number) for number in branch_numbers])
        _, tags = await self._engine.refs()
        await self._each([self._check_tag(name) for name in tags])

    async def _check_commit(self, number: int) -> None:
        path = commit_path(self._engine.heads.branch, number)
        async with self._slots:
            try:
                commit = await self._engine.heads.read(number)
                if commit is not None:
                    self._check_delta(open_version(commit), path)
                    self.result.commits += 1
            except StoredBytesError as error:
                self.add_error(error, path)

    async def _check_tag(self, name: str) -> None:
        path = tag_path(name)
        async with self._slots:
            try:
                if await read_commit(self._objects, path) is not None:
                    self.result.commits += 1
            except StoredBytesError as error:
                self.add_error(error, path)

    def _check_delta(self, version: Version, path: str) -> None:
        if version.commit is not None:
            Table(version.commit.delta, name=path).check_order()

    # -- one version ----------------------------------------------------------------------------------------------

    async def check_version(self, version: Version) -> None:
        self.result.number = version.number
        root = await self._root(version)
        folders: dict[str, list[bytes]] = {}
        for pack in version.packs():
            folders.setdefault(pack_name(pack).rpartition("/")[0], []).append(pack)
        await self._each([self._check_packs(*item) for item in folders.items()])
        loose = [_Value(key, entry) for key, entry in version.delta.sorted_rows() if not entry.is_deleted]
        self._total_bytes = sum(value.entry.length for value in loose) + sum(
            size for page in root.pages for _, size in page.usage
        )
        self._check_page_order(root)
        await self._check_values(loose)
        for start in range(0, len(root.pages), PAGES_AT_ONCE):
            refs = root.pages[start : start + PAGES_AT_ONCE]
            live: list[_Value] = []
            for ref, table in zip(refs, await self._pages(refs), strict=True):
                if table is None:
                    self._step(sum(size for _, size in ref.usage))
                    continue
                rows = await asyncio.to_thread(self._check_page, ref, table)
                live.extend(_Value(*row) for row in rows if version.delta.find(row[0]) is None)
            await self._check_values(live)
        self._step(self._total_bytes - self._done_bytes)

    async def _root(self, version: Version) -> Root:
        try:
            return await self._reader.root(version)
        except (StoredBytesError, StorageError) as error:
            assert version.commit is not None
            where = version.commit.root_at
            self.add_error(error, pack_name(where.pack) if where is not None else None)
            return Root()

    def _check_page_order(self, root: Root) -> None:
        for before, after in zip(root.pages, root.pages[1:], strict=False):
            if sort_key(before.last) >= sort_key(after.first):
                path = pack_name(after.location.pack)
                self.add(path, None, f"pages overlap: {before.last!r} stands before {after.first!r}")

    async def _pages(self, refs: Sequence[PageRef]) -> list[Table | None]:
        """Read pages together; if one is damaged, each by itself."""
        try:
            return list(await self._reader.pages(refs))
        except (StoredBytesError, StorageError):
            tables: list[Table | None] = []
            for ref in refs:
                try:
                    tables += await Reader(self._objects).pages([ref])
                except (StoredBytesError, StorageError) as error:
                    tables.append(None)
                    self.add(
                        pack_name(ref.location.pack),
                        None,
                        f"the manifest page of the {ref.count} keys from {ref.first!r} to {ref.last!r}: {_reason(error)}",
                    )
            return tables

    def _check_page(self, ref: PageRef, table: Table) -> list[tuple[str, Entry]]:
        path = pack_name(ref.location.pack)
        self.result.pages += 1
        try:
            table.check_order()
            rows = list(table)
        except CorruptError as error:
            self.add_error(error, path)
            return []
        if rows and (rows[0][0], rows[-1][0]) != (ref.first, ref.last):
            self.add(
                path,
                None,
                f"a page spans {rows[0][0]!r} to {rows[-1][0]!r}; the root says {ref.first!r} to {ref.last!r}",
            )
        if dict(table.usage()) != dict(ref.usage):
            self.add(path, None, f"the page from {ref.first!r} uses other bytes of packs than the root says")
        return rows

    # -- packs and values -----------------------------------------------------------------------------------------

    async def _check_packs(self, folder: str, packs: Sequence[bytes]) -> None:
        """Check the packs of one folder."""
        async with self._slots:
            there = {info.path: info.size for info in await self._objects.list(f"{folder}/")}
        await self._each([self._check_pack(pack, there.get(pack_name(pack))) for pack in packs])

    async def _check_pack(self, pack: bytes, size: int | None) -> None:
        """Check the header, trailer and footer of a pack of so many bytes; None if it is not there."""
        path = pack_name(pack)
        if size is None:
            self.add(path, None, "the pack is not there; it was deleted")
            return
        async with self._slots:
            try:
                check_header(await self._objects.get_range(path, 0, HEADER.size), name=path)
                start = max(0, size - TAIL_BYTES)
                tail = memoryview(await self._objects.get_range(path, start, size - start))
                length = footer_length(tail[-TRAILER.size :], name=path)
                end = size - TRAILER.size
                if length > end - HEADER.size:
                    self.add(path, None, f"a footer of {length} bytes does not fit into {size}")
                    return
                if end - length < start:
                    tail = memoryview(await self._objects.get_range(path, end - length, length))
                    start = end - length
                footer = decode_footer(tail[end - length - start : end - start], name=path)
                if footer.pack != pack:
                    self.add(path, None, f"its footer is that of pack {footer.pack.hex()}")
                Table(footer.values, name=path).check_order()
                Table(footer.changes, name=path).check_order()
                self.result.packs += 1
            except (StoredBytesError, MissingObjectError) as error:
                self.add_error(error, path)

    async def _check_values(self, values: Sequence[_Value]) -> None:
        stored = [value for value in values if value.entry.pack]
        inline_bytes = sum(value.entry.length for value in values if not value.entry.pack)
        self.result.values += len(values) - len(stored)
        self.result.value_bytes += inline_bytes
        self._step(inline_bytes)
        ranges = [Range(entry.pack, entry.offset, entry.length + CRC_BYTES) for _, entry in stored]
        await self._each([self._check_read(read, ranges, stored) for read in coalesce(ranges)])

    async def _check_read(self, read: Read, ranges: Sequence[Range], values: Sequence[_Value]) -> None:
        async with self._slots:
            path = pack_name(read.pack)
            try:
                data = await self._fetch(path, read.start, read.length)
            except StorageError as error:
                for which in read.wanted:
                    self.add(path, values[which].key, _reason(error))
                    self._step(values[which].entry.length)
                return
            suspects = await asyncio.to_thread(self._suspects, data, read, ranges)
            for which in suspects:  # a bit may have flipped on the way: read it once more
                again = await self._fetch(path, ranges[which].start, ranges[which].length)
                problem = _problem(again, ranges[which])
                if problem:
                    self.add(path, values[which].key, problem)
            self.result.values += len(read.wanted)
            for which in read.wanted:
                self.result.value_bytes += values[which].entry.length
                self._step(values[which].entry.length)

    @staticmethod
    def _suspects(data: memoryview, read: Read, ranges: Sequence[Range]) -> list[int]:
        bad = []
        for which in read.wanted:
            at = ranges[which].start - read.start
            if _problem(data[at : at + ranges[which].length], ranges[which]):
                bad.append(which)
        return bad

    async def _fetch(self, path: str, start: int, length: int) -> memoryview:
        """Read a range; fewer bytes where the object ends."""
        parts = [await self._objects.get_range(path, *piece) for piece in split_long(start, length)]
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    async def _each(self, work: Iterable[object]) -> None:
        await asyncio.gather(*work)  # type: ignore[call-overload]

    def _step(self, size: int) -> None:
        self._done_bytes += size
        if self._on_progress is not None:
            self._on_progress(self._done_bytes, max(self._total_bytes, self._done_bytes))


def _problem(part: memoryview, wanted: Range) -> str:
    """Return what is wrong with a value and its checksum; empty if nothing is."""
    where = f"at {wanted.start}"
    if len(part) < wanted.length:
        return f"{len(part)} of {wanted.length} bytes {where}: the pack was cut short"
    try:
        check_value(bytes(part[:-CRC_BYTES]), part[-CRC_BYTES:], name="")
    except CorruptError:
        return f"the CRC32C of the {wanted.length - CRC_BYTES} bytes {where} does not match: they changed in storage"
    return ""


def _reason(error: Exception) -> str:
    return "the pack is not there; it was deleted" if isinstance(error, MissingObjectError) else str(error)
