"""What does zarr see? A native store."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from zarrvec.engine.bridge import run, run_sync
from zarrvec.engine.reader import ByteRange, Request
from zarrvec.errors import ConflictError
from zarrvec.faces.config import use_pipeline
from zarrvec.faces.folders import delete_folders
from zarrvec.faces.urls import open_filesystem
from zarrvec.repository import Repository


class ZarrVecStore(Store):
    """A zarr store over a zarrvec repository, as `zarrvec.open_store` returns it.

    Parameters
    ----------
    repository
        A handle on the store.
    path
        Path inside the store below which this one's keys lie.
    read_only
        Whether writes are refused.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = zarrvec.open_store(f"zarrvec://{folder}/data.zarr")
    ...     array = zarr.create_array(store, name="x", data=np.array([1, 2, 3]))
    ...     zarr.open_array(store, path="x", mode="r")[1:].tolist()
    [2, 3]
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True
    _supports_sync_io = False  # zarr's synchronous pipeline would make one commit a chunk

    def __init__(self, repository: Repository, path: str = "", *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only or repository.at is not None)
        self.repository = repository
        self.path = path.strip("/")
        use_pipeline()

    @classmethod
    async def open(
        cls,
        url: str,
        storage_options: dict[str, Any] | None = None,
        *,
        read_only: bool = False,
        **options: Any,
    ) -> Self:
        """Open the store at a URL; see `zarrvec.open_store`."""
        fs, path = open_filesystem(url, storage_options, options)
        opened = cls(fs.repository, fs.key_of(path), read_only=read_only)
        await opened._open()
        return opened

    def __repr__(self) -> str:
        return f"<ZarrVecStore {self.repository.place.name}{'/' + self.path if self.path else ''}>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ZarrVecStore)
            and (self.repository.place, self.repository.at) == (other.repository.place, other.repository.at)
            and (self.path, self.read_only) == (other.path, other.read_only)
        )

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> "ZarrVecStore":  # noqa: FBT001, FBT002
        """Return the same store with another read-only setting."""
        return ZarrVecStore(self.repository, self.path, read_only=read_only)

    def key_of(self, key: str) -> str:
        """Return a key of this store as the repository knows it."""
        return f"{self.path}/{key}".strip("/") if self.path else key

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value or a part of it."""
        await self._ensure_open()
        found = await run(self.repository.read_one(Request(self.key_of(key), _byte_range(byte_range))))
        return None if found is None else prototype.buffer.from_bytes(found.data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read many values, or parts of them, of one version."""
        await self._ensure_open()
        requests = [Request(self.key_of(key), _byte_range(byte_range)) for key, byte_range in key_ranges]
        found = await run(self.repository.read(requests))
        return [None if value is None else prototype.buffer.from_bytes(value.data) for value in found]

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value or a part of it, outside of any event loop."""
        self._is_open = True
        found = run_sync(self.repository.read_one(Request(self.key_of(key), _byte_range(byte_range))))
        chosen = prototype or default_buffer_prototype()
        return None if found is None else chosen.buffer.from_bytes(found.data)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a value, outside of any event loop."""
        self._is_open = True
        self._check_writable()
        run_sync(self.repository.write({self.key_of(key): value.to_bytes()}))

    def delete_sync(self, key: str) -> None:
        """Delete a key, outside of any event loop; one that is not there is no error."""
        self._is_open = True
        self._check_writable()
        run_sync(self.repository.write(deletes=[self.key_of(key)]))

    async def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        await self._ensure_open()
        return await run(self._entry(key)) is not None

    async def getsize(self, key: str) -> int:
        """Return a value's length in bytes."""
        await self._ensure_open()
        entry = await run(self._entry(key))
        if entry is None:
            raise FileNotFoundError(key)
        return int(entry.length)

    async def _entry(self, key: str) -> Any:
        return (await self.repository.locate(await self.repository.view(), [self.key_of(key)]))[0]

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value; on return it is durable and visible to others."""
        await self._set_many([(key, value)])

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        """Write values in one commit."""
        await self._ensure_open()
        self._check_writable()
        puts = {}
        for key, value in values:
            if not isinstance(value, Buffer):
                raise TypeError(
                    f"ZarrVecStore.set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead."
                )
            puts[self.key_of(key)] = value.to_bytes()
        await run(self.repository.write(puts))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value only if there is none; of many that try, one wins."""
        await self._ensure_open()
        self._check_writable()
        name, data = self.key_of(key), value.to_bytes()

        async def write() -> None:
            staging = await self.repository.begin_reading()
            if (await self.repository.read_to_write(staging, [name]))[0] is None:
                await self.repository.stage(staging, {name: data})
                await self.repository.finish(staging)

        try:
            await run(write())
        except ConflictError:
            return  # another was first

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error."""
        await self._ensure_open()
        self._check_writable()
        await run(self.repository.write(deletes=[self.key_of(key)]))

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix, in one operation whatever it holds; with an array its vector index."""
        await self._ensure_open()
        self._check_writable()
        await run(delete_folders(self.repository, [self.key_of(prefix.strip("/"))]))

    async def clear(self) -> None:
        """Delete all keys."""
        await self.delete_dir("")

    async def is_empty(self, prefix: str) -> bool:
        """Return whether no key lies below a prefix."""
        await self._ensure_open()
        return await run(self.repository.is_empty(self.key_of(prefix.strip("/"))))

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield all keys that start with a prefix."""
        await self._ensure_open()
        folder, _, start = prefix.rpartition("/")
        cut = len(self.path) + 1 if self.path else 0
        for key, _entry in await run(self.repository.list_keys(self.key_of(folder))):
            if not start or key[cut:].startswith(prefix):
                yield key[cut:]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of keys and folders directly below a prefix."""
        await self._ensure_open()
        for name in await run(self.repository.list_children(self.key_of(prefix.strip("/")))):
            yield name


def _byte_range(request: ByteRequest | None) -> ByteRange:
    if request is None:
        return None
    if isinstance(request, RangeByteRequest):
        return request.start, request.end
    if isinstance(request, OffsetByteRequest):
        return request.offset, None
    if isinstance(request, SuffixByteRequest):
        return (-request.suffix, None) if request.suffix else (0, 0)
    raise ValueError(f"Unexpected byte_range, got {request}.")
