"""What goes wrong between the engine and its object storage, on a schedule that a test sets?

The same as the proxy of `zarrvec.testing.proxy`, but at the protocol `Objects`: in one process, without a server, and
exact to the request.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from zarrvec.errors import StorageError
from zarrvec.objects.protocol import Data, ObjectInfo, Objects, Parts, size_of

T = TypeVar("T")

Operation: TypeAlias = Literal["get", "get_range", "put", "create", "list", "delete"]
WRITES: Final = frozenset({"put", "create", "delete"})


class Call(NamedTuple):
    """One request that was made."""

    operation: str
    """Name of the method of `Objects`."""
    path: str
    """What it was for: a path, or the prefix of a listing."""
    size: int
    """Bytes that were sent."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong with which requests; of several the first that matches applies.

    ============  ===========================================================================
    kind          what the engine meets
    ============  ===========================================================================
    fail_before   `StorageError`, and nothing happened
    fail_after    `StorageError`, although the request was carried out
    refuse        `create` says that the object exists, but nothing is stored (HTTP 409)
    crash_before  as `fail_before`, and so does every request from here on
    crash_after   as `fail_after`, and every request from here on fails without effect
    delay         `seconds` more until the request is carried out
    run           `action` is awaited before the request is carried out: another writer, say
    ============  ===========================================================================
    """

    kind: Literal["fail_before", "fail_after", "refuse", "crash_before", "crash_after", "delay", "run"]
    """What goes wrong."""
    operation: Operation | None = None
    """Only requests of this kind."""
    path: str = ""
    """Only requests in whose path this regular expression is found."""
    skip: int = 0
    """So many matching requests pass unharmed first."""
    times: int = 1
    """So many are hit."""
    seconds: float = 0.0
    """Of a delay."""
    action: Callable[[], Awaitable[object]] | None = None
    """What is run."""

    def hits(self, call: Call) -> bool:
        """Whether the fault applies to a request, which uses it up by one."""
        if not self.times or self.operation not in (None, call.operation):
            return False
        if not re.search(self.path, call.path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FaultyObjects:
    """Object storage in which requests fail as told; it also writes down what was asked.

    Parameters
    ----------
    inner
        The storage itself.
    faults
        What goes wrong; the list may be changed at any time.
    seed
        If given, every request waits for a random number of turns of the loop, so that those of several engines
        interleave.
    """

    def __init__(self, inner: Objects, faults: Sequence[Fault] = (), *, seed: int | None = None) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.calls: list[Call] = []
        self.is_crashed = False
        self.name = inner.name
        self.create_is_atomic = inner.create_is_atomic
        self.create_refusals_are_final = inner.create_refusals_are_final
        self._random = None if seed is None else random.Random(seed)  # noqa: S311

    def count(self, operation: Operation, path: str = "") -> int:
        """Return how many requests of a kind were made for paths in which a regular expression is found."""
        return sum(call.operation == operation and bool(re.search(path, call.path)) for call in self.calls)

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        return await self._do(Call("get", path, 0), lambda: self.inner.get(path))

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        return await self._do(Call("get_range", path, 0), lambda: self.inner.get_range(path, start, length))

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        await self._do(Call("put", path, size_of(data)), lambda: self.inner.put(path, data))

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        return await self._do(
            Call("create", path, len(data)), lambda: self.inner.create(path, data), refused=False
        )

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        return await self._do(Call("list", prefix, 0), lambda: self.inner.list(prefix, limit=limit))

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        await self._do(Call("delete", ",".join(paths), 0), lambda: self.inner.delete(paths))

    async def _do(self, call: Call, act: Callable[[], Awaitable[T]], refused: T | None = None) -> T:
        self.calls.append(call)
        if self._random is not None:
            for _ in range(self._random.randrange(6)):
                await asyncio.sleep(0)
        if self.is_crashed:
            raise StorageError(f"{self.name}/{call.path}: the process has crashed.")
        fault = next((fault for fault in self.faults if fault.hits(call)), None)
        kind = None if fault is None else fault.kind
        if kind == "refuse":
            if refused is None:
                raise ValueError(f"only create can be refused, not {call}")
            return refused
        if kind in ("crash_before", "crash_after"):
            self.is_crashed = True
        if kind in ("fail_before", "crash_before"):
            raise StorageError(f"{self.name}/{call.path}: the request failed, as planned.")
        if fault is not None and kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.action is not None:
            await fault.action()
        result = await act()
        if kind in ("fail_after", "crash_after"):
            raise StorageError(f"{self.name}/{call.path}: the response was lost, as planned.")
        return result
