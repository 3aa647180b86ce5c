"""How does the demo count what zarr asks of a plain store, and of a zarrvec store?"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from zarrvec.engine.counting import Requests


class CountingStore(WrapperStore[Store]):
    """A zarr store whose every call is counted as the request that it is on object storage."""

    def __init__(self, store: Store, requests: Requests | None = None) -> None:
        super().__init__(store)
        self.requests = requests if requests is not None else Requests()

    def _with_store(self, store: Store) -> "CountingStore":
        return CountingStore(store, self.requests)

    @property
    def _supports_sync_io(self) -> bool:
        return False  # so that every call comes by here

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Count a GET."""
        self.requests.get += 1
        value = await self._store.get(key, prototype, byte_range)
        self.requests.read_bytes += 0 if value is None else len(value)
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Count a GET for each range."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Count a GET (a HEAD, on S3)."""
        self.requests.get += 1
        return await self._store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Count a PUT."""
        self.requests.put += 1
        self.requests.written_bytes += len(value)
        await self._store.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Count a PUT."""
        self.requests.put += 1
        self.requests.written_bytes += len(value)
        await self._store.set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Count a DELETE."""
        self.requests.delete += 1
        await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Count a LIST and a DELETE."""
        self.requests.list += 1
        self.requests.delete += 1
        await self._store.delete_dir(prefix)

    async def is_empty(self, prefix: str) -> bool:
        """Count a LIST."""
        self.requests.list += 1
        return await self._store.is_empty(prefix)

    async def list(self) -> AsyncIterator[str]:
        """Count a LIST."""
        self.requests.list += 1
        async for key in self._store.list():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Count a LIST."""
        self.requests.list += 1
        async for key in self._store.list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Count a LIST."""
        self.requests.list += 1
        async for key in self._store.list_dir(prefix):
            yield key


class Files(NamedTuple):
    """What a directory holds."""

    files: int
    """Number of files: of objects, were it a bucket."""
    size: int
    """Bytes of them."""


def count_files(directory: Path) -> Files:
    """Count the files below a directory."""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return Files(len(sizes), sum(sizes))


def as_figures(requests: Requests) -> dict[str, Any]:
    """Return requests as a dictionary, for JSON."""
    return {name: getattr(requests, name) for name in requests.__slots__} | {"total": requests.total}
