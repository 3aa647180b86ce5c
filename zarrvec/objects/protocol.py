"""What does zarrvec need of an object storage?

Source: ``specs/storage-operations.md``.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

Data: TypeAlias = bytes | memoryview
Parts: TypeAlias = bytes | Sequence[bytes]
"""What an object is written from: its bytes, or parts that follow each other."""


class ObjectInfo(NamedTuple):
    """What a listing says of one object."""

    path: str
    """Below the store's root."""
    size: int
    """In bytes."""
    modified: float
    """Seconds since 1970-01-01 UTC by the storage's clock."""


def size_of(data: Parts) -> int:
    """Return how many bytes there are.

    Examples
    --------
    >>> size_of(b"abc"), size_of([b"abc", b"de"])
    (3, 5)
    """
    return len(data) if isinstance(data, bytes) else sum(map(len, data))


def joined(data: Parts) -> bytes:
    """Return the bytes in one piece.

    Examples
    --------
    >>> joined(b"abc"), joined([b"abc", b"de"])
    (b'abc', b'abcde')
    """
    return data if isinstance(data, bytes) else b"".join(data)


@runtime_checkable
class Closable(Protocol):
    """A storage that holds connections which do not close by themselves."""

    async def close(self) -> None:
        """Close the connections; using the storage again opens new ones."""
        ...


@runtime_checkable
class Objects(Protocol):
    """Objects below one root. Paths are relative to it, joined by ``/``.

    Every method may raise `zarrvec.errors.StorageError`; `AccessError` for credentials and missing buckets.
    """

    name: str
    """The root as a URL without credentials, for messages."""

    create_is_atomic: bool
    """Whether `create` is one conditional operation, and not a look followed by a write."""

    create_refusals_are_final: bool
    """Whether `create` is tried once only, so that False never means that an earlier try of the same call landed."""

    async def get(self, path: str) -> Data | None:
        """Return a whole object, None if there is none."""
        ...

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """Return `length` bytes from `start`; fewer only where the object ends.

        Raises
        ------
        MissingObjectError
            If there is no such object.
        """
        ...

    async def put(self, path: str, data: Parts) -> None:
        """Write an object whole: no reader sees a part of it, and it is durable on return."""
        ...

    async def create(self, path: str, data: bytes) -> bool:
        """Write an object only if there is none of that name.

        Guaranteed to be atomic: of many clients that create one name, exactly one sees True. False may also mean that
        an earlier attempt of this very call landed and its response was lost, or (some servers) that another create
        was under way and nothing is stored; so the caller reads the object back.
        """
        ...

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """List objects whose path starts with a prefix that ends in ``/`` (or is empty), sorted by path.

        With `limit`, at most that many, the first by path.
        """
        ...

    async def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error."""
        ...
