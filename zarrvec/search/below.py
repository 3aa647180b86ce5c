"""How is a group written inside the prefix of an array, where zarr refuses to nest one? In a store of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.cpu import buffer_prototype
from zarr.storage import StorePath

from zarrvec.search.head import ATTRIBUTE, age_of

AHEAD_BYTES: Final = 32 << 20
"""More than so much is not on its way at once, unless it is one value."""
_DOCUMENT: Final = "zarr.json"


class StoreBelow(Store):
    """The part of a store that lies below a prefix.

    Parameters
    ----------
    store
        The store.
    prefix
        Without slash at its end.

    Examples
    --------
    >>> import zarr
    >>> whole = zarr.storage.MemoryStore()
    >>> group = zarr.create_group(StoreBelow(whole, ".vec"), path="a")
    >>> sorted(whole._store_dict)
    ['.vec/a/zarr.json', '.vec/zarr.json']
    """

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(read_only=store.read_only)
        self._store = store
        self._prefix = f"{prefix}/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreBelow) and self._store == other._store and self._prefix == other._prefix

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<StoreBelow {self._store}/{self._prefix}>"

    __str__ = __repr__

    @property
    def supports_writes(self) -> bool:
        """See `Store`."""
        return self._store.supports_writes

    @property
    def supports_deletes(self) -> bool:
        """See `Store`."""
        return self._store.supports_deletes

    @property
    def supports_listing(self) -> bool:
        """See `Store`."""
        return self._store.supports_listing

    def with_read_only(self, read_only: bool = False) -> "StoreBelow":  # noqa: FBT001, FBT002
        """See `Store`."""
        return StoreBelow(self._store.with_read_only(read_only), self._prefix[:-1])

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See `Store`."""
        return await self._store.get(self._prefix + key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """See `Store`."""
        inner = [(self._prefix + key, byte_range) for key, byte_range in key_ranges]
        return await self._store.get_partial_values(prototype, inner)

    async def exists(self, key: str) -> bool:
        """See `Store`."""
        return await self._store.exists(self._prefix + key)

    async def set(self, key: str, value: Buffer) -> None:
        """See `Store`."""
        await self._store.set(self._prefix + key, value)

    async def delete(self, key: str) -> None:
        """See `Store`."""
        await self._store.delete(self._prefix + key)

    async def delete_dir(self, prefix: str) -> None:
        """See `Store`."""
        await self._store.delete_dir((self._prefix + prefix).rstrip("/"))

    async def list(self) -> AsyncIterator[str]:
        """See `Store`."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """See `Store`."""
        async for key in self._store.list_prefix(self._prefix + prefix):
            yield key.removeprefix(self._prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """See `Store`."""
        async for name in self._store.list_dir((self._prefix + prefix).rstrip("/")):
            yield name


class PartsBelow(StoreBelow):
    """Where a writer puts new parts of an index: all of them side by side, values after metadata, and the head when they are there.

    What zarr asks of names that nobody has used is answered at once, and so is what the metadata document of the group
    says, which the writer has read. Values must not change once they were given.

    Parameters
    ----------
    below
        Where the group is.
    document
        Its metadata document, None if there is none.
    """

    def __init__(self, below: Store, document: bytes | None) -> None:
        assert isinstance(below, StoreBelow)
        super().__init__(below._store, below._prefix[:-1])
        known = None if document is None else buffer_prototype.buffer.from_bytes(document)
        self._documents: dict[str, Buffer | None] = {_DOCUMENT: known}
        self._writing: set[asyncio.Task[None]] = set()
        self._documents_writing: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._failed: list[Exception] = []

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """See `Store`."""
        if key in self._documents:
            return self._documents[key]
        return None if _is_new(key) else await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """See `Store`."""
        if key in self._documents:
            return self._documents[key] is not None
        return not _is_new(key) and await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """See `Store`."""
        if key.endswith(_DOCUMENT):
            self._documents[key] = value
        if key != _DOCUMENT:
            await self._begin(key, value)
        elif ATTRIBUTE.encode() in value.to_bytes():  # else it comes with the head
            await self.settle()
            await super().set(key, value)

    def place_of(self, path: str) -> StorePath:
        """Return a place in the group as it is in the whole store, for another process to write to."""
        return StorePath(self._store, self._prefix + path)

    async def settle(self) -> None:
        """Wait until all that was written is there."""
        await self._drain(0)

    async def _begin(self, key: str, value: Buffer) -> None:
        await self._drain(AHEAD_BYTES - len(value))
        self._bytes += len(value)
        is_document = key.endswith(_DOCUMENT)
        first = (
            [] if is_document else [*self._documents_writing]
        )  # Icechunk refuses chunks of arrays that it doesn't know
        task = asyncio.create_task(self._put(key, value, first))
        self._writing.add(task)
        if is_document:
            self._documents_writing.add(task)
            task.add_done_callback(self._documents_writing.discard)
        task.add_done_callback(self._writing.discard)

    async def _put(self, key: str, value: Buffer, first: list[asyncio.Task[None]]) -> None:
        try:
            await asyncio.gather(*first)
            await super().set(key, value)
        except Exception as error:  # noqa: BLE001 - raised by the next call
            self._failed.append(error)
        finally:
            self._bytes -= len(value)

    async def _drain(self, limit_bytes: int) -> None:
        """Wait until no more is on its way than that."""
        while self._writing and (limit_bytes <= 0 or self._bytes > limit_bytes):
            await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
        if self._failed:
            raise self._failed[0]


def _is_new(key: str) -> bool:
    """Return whether a key is that of a part whose name its writer made."""
    return age_of(key.partition("/")[0]) is not None
