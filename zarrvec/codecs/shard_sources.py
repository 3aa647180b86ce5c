"""How are a shard's index and parts of it read from a store, so that both are of one state of the shard?

==================  ===================================  =========================================================
zarr's store        name of a state                      what else
==================  ===================================  =========================================================
`ObjectStore`       ETag                                 parts are read on condition that it holds (``If-Match``)
`LocalStore`        inode, size and times of the file    one open file: who overwrites it makes a new one
any other           none                                 index and parts are two requests that know nothing of
                                                         each other, as in zarr's own codec
==================  ===================================  =========================================================

Subclasses and wrappers count as others: what they do with `get` is theirs to say.
"""

import asyncio
import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, Self, TypeVar

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import concurrent_map
from zarr.core.config import config
from zarr.storage import LocalStore, MemoryStore, ObjectStore, StorePath

from zarrvec.codecs.shard_index import Span

T = TypeVar("T")

NOT_THERE: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""As zarr's stores, for which these are missing keys."""
_RACY_SECONDS: Final = 2.0
"""A file changed so recently may be changed again with no difference in its times; as git does."""


class ShardChangedError(Exception):
    """The shard is no longer in the state whose index was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRead:
    """The bytes where a shard's index is, and what reading them told."""

    data: Buffer
    """Shorter than asked for if the shard is."""
    version: Hashable = None
    """What the storage calls this state of the shard."""
    size_bytes: int | None = None
    """Length of the shard."""
    keep: bool = True
    """Whether it may be kept for later operations."""


class ShardSource(Protocol):
    """Reads one shard during one operation."""

    async def read_index(self, length: int, *, at_start: bool) -> IndexRead | None:
        """Read the first or last bytes of the shard; None if there is no shard."""

    async def read_spans(self, spans: Sequence[Span], version: Hashable) -> list[Buffer] | None:
        """Read parts of the shard; None if it is gone.

        Raises
        ------
        ShardChangedError
            If the shard is no longer in the state named `version`.
        """

    async def size_bytes(self) -> int | None:
        """Ask for the length of the shard."""

    def close(self) -> None:
        """End the operation."""


def source_of(place: StorePath, prototype: BufferPrototype) -> ShardSource:
    """Return the best way to read a shard."""
    if type(place.store) is ObjectStore:
        return ObjectSource(place.store.store, place.path, prototype)
    if type(place.store) is LocalStore and os.name == "posix":  # elsewhere an open file can't be replaced
        return FileSource(str(place.store.root / place.path), prototype)
    return StoreSource(place, prototype)


@dataclass(frozen=True, slots=True)
class StoreSource:
    """Through a store's own `get`."""

    place: StorePath
    prototype: BufferPrototype

    async def read_index(self, length: int, *, at_start: bool) -> IndexRead | None:
        """Read the first or last bytes."""
        part: ByteRequest = RangeByteRequest(0, length) if at_start else SuffixByteRequest(length)
        data = await self.place.get(self.prototype, part)
        keep = type(self.place.store) is not MemoryStore  # that costs nothing to read
        return None if data is None else IndexRead(data=data, keep=keep)

    async def read_spans(self, spans: Sequence[Span], version: Hashable) -> list[Buffer] | None:
        """Read parts side by side."""
        del version

        async def read(start: int, length: int) -> Buffer | None:
            return await self.place.get(self.prototype, RangeByteRequest(start, start + length))

        parts = await concurrent_map(spans, read, config.get("async.concurrency"))
        found = [part for part in parts if part is not None]
        return found if len(found) == len(parts) else None

    async def size_bytes(self) -> int | None:
        """Ask the store."""
        try:
            return await self.place.store.getsize(self.place.path)
        except NOT_THERE:
            return None

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """Through obstore, on condition that the object's ETag holds."""

    store: Any
    path: str
    prototype: BufferPrototype

    async def read_index(self, length: int, *, at_start: bool) -> IndexRead | None:
        """Read the first or last bytes, and the ETag."""
        import obstore

        part: Any = (0, length) if at_start else {"suffix": length}
        try:
            try:
                response = await obstore.get_async(self.store, self.path, options={"range": part})
            except obstore.exceptions.NotSupportedError:  # Azure knows no suffixes
                size = (await obstore.head_async(self.store, self.path))["size"]
                part = (max(0, size - length), size)
                response = await obstore.get_async(self.store, self.path, options={"range": part})
            data = await response.bytes_async()
        except NOT_THERE:
            return None
        tag = response.meta["e_tag"]
        if tag is not None and tag.startswith("W/"):
            tag = None  # a weak one may stay as bytes change, and fulfils no condition
        keep = True
        if isinstance(self.store, obstore.store.LocalStore):  # whose tags are made of inode, time and size
            keep = time.time() - response.meta["last_modified"].timestamp() > _RACY_SECONDS
        buffer = self.prototype.buffer.from_bytes(data)  # type: ignore[arg-type]
        return IndexRead(data=buffer, version=tag, size_bytes=response.meta["size"], keep=keep)

    async def read_spans(self, spans: Sequence[Span], version: Hashable) -> list[Buffer] | None:
        """Read parts side by side, all of one state."""
        import obstore

        condition: Any = {} if version is None else {"if_match": version}

        async def read(start: int, length: int) -> Buffer:
            options: Any = {"range": (start, start + length), **condition}
            response = await obstore.get_async(self.store, self.path, options=options)
            if version is not None and response.meta["e_tag"] != version:  # some servers ignore conditions
                raise ShardChangedError(self.path)
            return self.prototype.buffer.from_bytes(await response.bytes_async())  # type: ignore[arg-type]

        try:
            return await concurrent_map(spans, read, config.get("async.concurrency"))
        except NOT_THERE:
            return None
        except obstore.exceptions.PreconditionError as error:
            raise ShardChangedError(self.path) from error

    async def size_bytes(self) -> int | None:
        """Ask for the object's head."""
        import obstore

        try:
            return int((await obstore.head_async(self.store, self.path))["size"])
        except NOT_THERE:
            return None

    def close(self) -> None:
        """Nothing is open."""


class FileState(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, state: os.stat_result) -> Self:
        """Take it from what the filesystem says."""
        return cls(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@dataclass(slots=True)
class FileSource:
    """A local file, kept open from the index to the data."""

    path: str
    prototype: BufferPrototype
    _file: BinaryIO | None = field(default=None, init=False)

    async def read_index(self, length: int, *, at_start: bool) -> IndexRead | None:
        """Open the file and read its first or last bytes."""
        self.close()
        return await _in_thread(self._read_index, length, at_start)

    def _read_index(self, length: int, at_start: bool) -> IndexRead | None:  # noqa: FBT001
        try:
            self._file = open(self.path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed with the operation
        except NOT_THERE:
            return None
        state = os.fstat(self._file.fileno())
        start = 0 if at_start else max(0, state.st_size - length)
        data = self._read(Span(start, min(length, state.st_size)))
        keep = time.time() - max(state.st_ctime, state.st_mtime) > _RACY_SECONDS
        return IndexRead(data=data, version=FileState.of(state), size_bytes=state.st_size, keep=keep)

    async def read_spans(self, spans: Sequence[Span], version: Hashable) -> list[Buffer] | None:
        """Read parts of the file that is open, or open it."""
        return await _in_thread(self._read_spans, spans, version)

    def _read_spans(self, spans: Sequence[Span], version: Hashable) -> list[Buffer] | None:
        try:
            if self._file is None:
                self._file = open(self.path, "rb", buffering=0)  # noqa: PTH123, SIM115
                self._check(version, fields=len(FileState._fields))
            parts = [self._read(span) for span in spans]
        except NOT_THERE:
            return None
        # the last field, the time of a change of status, also changes when a newer file takes this one's name
        self._check(version, fields=len(FileState._fields) - 1)
        return parts

    def _check(self, version: Any, *, fields: int) -> None:
        assert self._file is not None
        if FileState.of(os.fstat(self._file.fileno()))[:fields] != version[:fields]:
            raise ShardChangedError(self.path)

    def _read(self, span: Span) -> Buffer:
        assert self._file is not None
        parts: list[bytes] = []
        start, left = span
        while left and (part := os.pread(self._file.fileno(), left, start)):
            parts.append(part)
            start, left = start + len(part), left - len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.prototype.buffer.from_bytes(data)

    async def size_bytes(self) -> int | None:
        """Ask the filesystem."""
        try:
            return os.stat(self.path).st_size  # noqa: PTH116
        except NOT_THERE:
            return None

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run something short in a thread, and see it end even if nobody wants it any more: it has a file open."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
