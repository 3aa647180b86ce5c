"""Which semantics does an object storage have? This one, in memory, is the oracle of the others.

Stores named by ``memory://name`` live as long as the process and are shared inside it.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

from zarrvec.errors import MissingObjectError
from zarrvec.objects.protocol import Data, ObjectInfo, Parts, joined


class MemoryObjects:
    """Objects in a dict.

    Parameters
    ----------
    name
        Shown in messages.
    objects
        The dict, path to (bytes, time); several stores may share it.

    Examples
    --------
    >>> import asyncio
    >>> objects = MemoryObjects("memory://x")
    >>> asyncio.run(objects.create("a", b"1")), asyncio.run(objects.create("a", b"2"))
    (True, False)
    >>> asyncio.run(objects.get("a"))
    b'1'
    """

    create_is_atomic = True
    create_refusals_are_final = True

    def __init__(self, name: str, objects: dict[str, tuple[bytes, float]] | None = None) -> None:
        self.name = name
        self._objects = {} if objects is None else objects
        self._lock = threading.Lock()

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        found = self._objects.get(path)
        return None if found is None else found[0]

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        found = self._objects.get(path)
        if found is None:
            raise MissingObjectError(f"{self.name}/{path}: there is no such object.")
        return memoryview(found[0])[start : start + length]

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        self._objects[path] = (joined(data), time.time())

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        with self._lock:
            return self._objects.setdefault(path, mine := (data, time.time())) is mine

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        paths = sorted(path for path in self._objects.copy() if path.startswith(prefix))[:limit]
        return [
            ObjectInfo(path, len(found[0]), found[1])
            for path in paths
            if (found := self._objects.get(path)) is not None
        ]

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        for path in paths:
            self._objects.pop(path, None)


_SHARED: Final[dict[str, dict[str, tuple[bytes, float]]]] = {}


def shared_memory_objects(root: str) -> MemoryObjects:
    """Return the process-wide store of that name."""
    return MemoryObjects(f"memory://{root}", _SHARED.setdefault(root.strip("/"), {}))


def forget_memory_objects(root: str) -> None:
    """Empty the process-wide stores of that name and below it, and forget them."""
    inner = root.strip("/")
    for name in [one for one in _SHARED if f"{one}/".startswith(f"{inner}/")]:
        _SHARED.pop(name).clear()
