"""How are parts of many values read in one wave of requests, from a zarrvec store and from any other?"""

import asyncio
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, TypeAlias

import zarr
from obstore.exceptions import GenericError
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer.cpu import buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, StorePath
from zarr.types import AnyArray

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.reader import CONCURRENCY, Request
from zarrvec.engine.traffic import Traffic, counting
from zarrvec.engine.version import View
from zarrvec.errors import SearchError
from zarrvec.faces.store import ZarrVecStore
from zarrvec.layout.coalesce import READ_BYTES, Range, coalesce, split_long
from zarrvec.repository import Repository
from zarrvec.search.below import StoreBelow
from zarrvec.search.cache import ByteCache
from zarrvec.search.units import STAGED, Generations, Pages, Units, pages_of

GAP_BYTES: Final = 128 << 10
"""Gaps up to this length are read over: what is wanted is far apart, and bytes count."""
_GENERATIONS_BYTES: Final = 16 << 20
_TICKS: Final = 5
"""Of an event loop, after which requests that were asked for have been sent: another thread that computes would hold them up."""
_OPENED_COUNT: Final = 16  # each keeps its version in memory

Token: TypeAlias = Hashable
"""Equal ones stand for equal contents of a store."""


class Want(NamedTuple):
    """A value, or a part of it."""

    key: str
    """Of the value."""
    start: int = 0
    """First byte; negative to count from the end, and then `stop` is None."""
    stop: int | None = None
    """Byte after the last; None for the end of the value."""


class Opened(NamedTuple):
    """What two metadata documents of one version say."""

    array: AnyArray
    """The array."""
    group: bytes | None
    """Metadata document of the group of its index."""


_OPENED: Final[ByteCache[tuple[Token, str], Opened]] = ByteCache(_OPENED_COUNT)
_GENERATIONS: Final[ByteCache[tuple[Token, str], Generations]] = ByteCache(_GENERATIONS_BYTES)


def documents_of(path: str, array: AnyArray) -> list[str]:
    """Return the keys of the metadata documents of an array that lies at a path."""
    names = ["zarr.json"] if array.metadata.zarr_format == 3 else [".zarray", ".zattrs"]
    return [f"{path}/{name}" if path else name for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """One version of a zarrvec store, or what an open transaction sees."""

    repository: Repository
    """The handle that was given."""
    view: View
    """What is read."""
    token: Token | None
    """None in a transaction."""

    @classmethod
    def of(cls, repository: Repository) -> Self:
        """Look at what a handle sees now."""
        view = repository.view_at_hand() or run_sync(repository.view())
        commit = view.version.commit
        is_settled = repository.transaction is None and commit is not None
        token = (repository.place.identity, commit.write_id) if commit is not None and is_settled else None
        return cls(repository=repository, view=view, token=token)

    @property
    def name(self) -> str:
        """The store, for messages."""
        return self.repository.place.name

    def is_current(self) -> bool:
        """Return whether a search that begins now sees this version, as far as that is known without a request."""
        if self.token is None or self.repository.transaction is not None:
            return False
        view = self.repository.view_at_hand()
        return view is not None and view.version is self.view.version

    def place_of(self, path: str) -> StorePath:
        """Return where a group is written. It is the root of a store, for zarr refuses to nest one in an array."""
        return StorePath(ZarrVecStore(self.repository, path))

    def open(self, path: str, index_path: str, array: AnyArray) -> tuple[Opened, Traffic]:
        """Open an array as it is in this view; `array` is how it was once.

        No write will rest on the documents that are read: they were not shown to the user.

        Raises
        ------
        SearchError
            If it is not there.
        """
        identity = self.token, path
        held = _OPENED.get_many([identity])
        if held:
            return held[identity], Traffic()
        wants = [Want(key) for key in [*documents_of(path, array), f"{index_path}/zarr.json"]]
        (document, *rest, index), traffic = self.read(wants)
        described = None if document is None else json.loads(bytes(document))
        if described is None or described.get("node_type", "array") != "array":
            raise SearchError(
                f"array {path or '/'!r}: not there in version {self.view.version.number} of {self.repository.place.name}, "
                "it was deleted or replaced after it was opened; open it again."
            )
        for attributes in rest:
            described["attributes"] = {} if attributes is None else json.loads(bytes(attributes))
        handle = self.repository if self.token is None else self.repository.pinned(self.view.version)
        place = StorePath(ZarrVecStore(handle, read_only=True), path)
        found = zarr.Array.from_dict(place, described)
        opened = Opened(found, None if index is None else bytes(index))
        if self.token is not None:
            _OPENED.put_many({identity: (opened, 1)})
        return opened, traffic

    def rest_on(self, keys: Sequence[str]) -> None:
        """Let what the open transaction writes of metadata documents rest on them as they are in this view."""
        staging = self.repository.gathered()
        assert staging is not None
        for key in keys:
            staging.note_document(key, self.generation(key))

    def read(self, wants: Sequence[Want]) -> tuple[list[memoryview | None], Traffic]:
        """Read parts of values in one wave; None where there is no value."""
        at_hand = self._at_hand(wants)
        return run_sync(self._read(wants)) if at_hand is None else (at_hand, Traffic())

    def _at_hand(self, wants: Sequence[Want]) -> list[memoryview | None] | None:
        """Return whole values if all of them stand in the manifest's newest part, which is in memory."""
        parts: list[memoryview | None] = []
        for want in wants:
            entry = self.view.find(want.key)
            if entry is None or _byte_range(want) is not None:
                return None
            if entry.is_deleted:
                parts.append(None)
            elif entry.data is None:
                return None
            else:
                parts.append(memoryview(entry.data))
        return parts

    async def _read(self, wants: Sequence[Want]) -> tuple[list[memoryview | None], Traffic]:
        reader = (await self.repository.engine()).reader
        requests = [Request(want.key, _byte_range(want)) for want in wants]
        with counting() as traffic:
            return await reader.read_views(self.view, requests, gap=GAP_BYTES), traffic

    def known_generations(self, path: str) -> Generations | None:
        """Return the generations of the units of an array if they are in memory."""
        return _GENERATIONS.get_many([(self.token, path)]).get((self.token, path))

    def generations(self, units: Units) -> tuple[Generations, Traffic]:
        """Return the generations of the units of an array."""
        pages, traffic = run_sync(self._pages(units.path))
        return self._generations(units, pages), traffic

    def read_with_generations(
        self, path: str, units: Callable[[], Units], wants: Sequence[Want], later: Sequence[str]
    ) -> tuple[list[memoryview | None], Generations, Traffic]:
        """Do what `read` and `generations` do: together, or one after the other if pages tell where the parts are.

        What units the array at the path has is asked for in another thread, while requests are under way. Pages that tell
        of the arrays that begin with the keys `later` are read along.
        """

        async def count(pages: Pages) -> Generations:
            return await asyncio.to_thread(lambda: self._generations(units(), pages))

        async def look() -> tuple[Generations, Traffic]:
            pages, traffic = await self._pages(path, [], later)
            for _ in range(_TICKS):
                await asyncio.sleep(0)
            return await count(pages), traffic

        async def both() -> tuple[list[memoryview | None], Generations, Traffic]:
            total = Traffic()
            if any(self.view.find(want.key) is None for want in wants):
                pages, traffic = await self._pages(path, wants, later)
                total.add(traffic)
                generations, (parts, traffic) = await asyncio.gather(count(pages), self._read(wants))
                total.add(traffic)
            else:
                (parts, traffic), (generations, other) = await asyncio.gather(self._read(wants), look())
                total.add(traffic, other)
            return parts, generations, total

        return run_sync(both())

    async def _pages(
        self, path: str, wants: Sequence[Want] = (), later: Sequence[str] = ()
    ) -> tuple[Pages, Traffic]:
        """Read the pages that may tell of units, and by the same requests those that may tell of `wants` and arrays read `later`."""
        reader = (await self.repository.engine()).reader
        also = [want.key for want in wants]
        with counting() as traffic:
            return await pages_of(reader, self.view, path, also=also, arrays=later), traffic

    def _generations(self, units: Units, pages: Pages) -> Generations:
        generations = units.generations(pages, self.view.changed())
        generations.flags.writeable = False
        if self.token is not None:
            _GENERATIONS.put_many({(self.token, units.path): (generations, generations.nbytes)})
        return generations

    def generation(self, key: str) -> int:
        """Return the number of the commit that wrote a value last; 0 if there is none."""
        entry = self.view.find(key)
        if entry is None:  # pages may tell
            (entry,) = run_sync(self.repository.locate(self.view, [key]))
        return 0 if entry is None or entry.is_deleted else entry.generation or STAGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A store without versions."""

    store: Store
    """The store."""

    @property
    def name(self) -> str:
        """The store, for messages."""
        return str(self.store)

    def place_of(self, path: str) -> StorePath:
        """Return where a group is written. It is the root of a store, for zarr refuses to nest one in an array."""
        return StorePath(StoreBelow(self.store, path))

    def read(self, wants: Sequence[Want]) -> tuple[list[memoryview | None], Traffic]:
        """Read parts of values in one wave; None where there is no value."""
        traffic = Traffic(rounds=1)
        return sync(self.fetch(wants, traffic)), traffic

    async def fetch(self, wants: Sequence[Want], traffic: Traffic) -> list[memoryview | None]:
        """Do what `read` does, and add up what it cost but for rounds."""
        slots = asyncio.Semaphore(CONCURRENCY)

        async def get(key: str, byte_range: ByteRequest | None) -> memoryview | None:
            traffic.requests += 1
            async with slots:
                try:
                    value = await self.store.get(key, prototype=buffer_prototype, byte_range=byte_range)
                except GenericError:  # obstore's word for a range that begins after the end, too
                    if await self.store.getsize(key) > getattr(byte_range, "start", 0):
                        raise
                    return memoryview(b"")
            if value is None:
                return None
            data = memoryview(value.as_buffer_like())
            traffic.bytes += data.nbytes
            return data

        async def get_range(key: str, start: int, length: int) -> memoryview | None:
            pieces = split_long(start, length, size=READ_BYTES + READ_BYTES // 8)
            parts = await asyncio.gather(*(get(key, RangeByteRequest(at, at + size)) for at, size in pieces))
            if len(parts) == 1 or None in parts:
                return parts[0]
            return memoryview(b"".join(part for part in parts if part is not None))

        found: list[memoryview | None] = [memoryview(b"")] * len(wants)
        bounded = [index for index, want in enumerate(wants) if want.stop not in (None, want.start)]
        ranges = [_range(wants[index]) for index in bounded]
        reads = coalesce(ranges, gap=GAP_BYTES)
        open_ended = [index for index, want in enumerate(wants) if want.stop is None]
        datas = await asyncio.gather(
            *(get_range(read.pack.decode(), read.start, read.length) for read in reads),
            *(get(wants[index].key, _byte_request(wants[index], self.store)) for index in open_ended),
        )
        for read, data in zip(reads, datas, strict=False):
            for which in read.wanted:
                at = ranges[which].start - read.start
                found[bounded[which]] = None if data is None else data[at : at + ranges[which].length]
        for index, data in zip(open_ended, datas[len(reads) :], strict=True):
            found[index] = data
        return found


def _byte_range(want: Want) -> tuple[int, int | None] | None:
    return None if (want.start, want.stop) == (0, None) else (want.start, want.stop)


def _range(want: Want) -> Range:
    assert want.stop is not None
    return Range(want.key.encode(), want.start, want.stop - want.start)


def _byte_request(want: Want, store: Store) -> ByteRequest | None:
    if want.start == 0 and not isinstance(store, FsspecStore):
        return None  # s3fs asks for the length of a value first if all of it is wanted, but not for its bytes from 0
    return SuffixByteRequest(-want.start) if want.start < 0 else OffsetByteRequest(want.start)
