"""How is a group written inside the prefix of an array, where zarr refuses to nest one? In a store of its own."""

from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype


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
