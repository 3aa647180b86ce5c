"""How many requests does this process make to a store, and of what kind?"""

from collections.abc import Sequence
from dataclasses import dataclass

from zarrvec.engine.engine import _ENGINES, Engine, Place, engine_for
from zarrvec.objects.protocol import Closable, Data, ObjectInfo, Objects, Parts, size_of


@dataclass(slots=True, kw_only=True)
class Requests:
    """Requests by their HTTP verbs on S3, and the bytes that went with them."""

    put: int = 0
    get: int = 0
    list: int = 0
    delete: int = 0
    written_bytes: int = 0
    read_bytes: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.put + self.get + self.list + self.delete

    def since(self, before: "Requests") -> "Requests":
        """Return what came after an earlier count."""
        return Requests(
            put=self.put - before.put,
            get=self.get - before.get,
            list=self.list - before.list,
            delete=self.delete - before.delete,
            written_bytes=self.written_bytes - before.written_bytes,
            read_bytes=self.read_bytes - before.read_bytes,
        )

    def copy(self) -> "Requests":
        """Return the count as it stands."""
        return self.since(Requests())


class CountingObjects:
    """Object storage that counts what is asked of it.

    Parameters
    ----------
    inner
        The storage itself.
    requests
        Where to count.
    """

    def __init__(self, inner: Objects, requests: Requests) -> None:
        self._inner = inner
        self._requests = requests
        self.name = inner.name
        self.create_is_atomic = inner.create_is_atomic
        self.create_refusals_are_final = inner.create_refusals_are_final

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        self._requests.get += 1
        data = await self._inner.get(path)
        self._requests.read_bytes += len(data or b"")
        return data

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        self._requests.get += 1
        data = await self._inner.get_range(path, start, length)
        self._requests.read_bytes += len(data)
        return data

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        self._requests.put += 1
        self._requests.written_bytes += size_of(data)
        await self._inner.put(path, data)

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        self._requests.put += 1
        self._requests.written_bytes += len(data)
        return await self._inner.create(path, data)

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        self._requests.list += 1
        return await self._inner.list(prefix, limit=limit)

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        self._requests.delete += len(paths)
        await self._inner.delete(paths)

    async def close(self) -> None:
        """See `Closable.close`."""
        if isinstance(self._inner, Closable):
            await self._inner.close()


async def count_requests(place: Place) -> Requests:
    """Count the requests to a place from now on, in this process.

    The place is opened anew: nothing that was read before is remembered.
    """
    await engine_for(place)  # refuses a wrong place
    objects = _ENGINES.pop(place.identity).objects
    if isinstance(objects, CountingObjects):
        objects = objects._inner
    requests = Requests()
    _ENGINES[place.identity] = Engine(place, CountingObjects(objects, requests))
    return requests
