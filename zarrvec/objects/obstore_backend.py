"""How does obstore (S3, GCS, Azure) serve as the fast backend?

Facts it rests on are in ``specs/storage-operations.md``: mode ``create`` is If-None-Match, each range is a request of its own
(obstore's own merging reads far more than asked), a client never crosses a fork.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import obstore
from obstore import exceptions as failures

from zarrvec.errors import AccessError, MissingObjectError, StorageError
from zarrvec.objects.protocol import Data, ObjectInfo, Parts, joined, size_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ACCESS_HINTS = (
    "NoSuchBucket",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "credential",
    "169.254",
)


PART_BYTES: Final = 32 << 20
"""An object up to this size is one request, a larger one is uploaded in parts of it."""

_APART_BYTES: Final = 1 << 20
"""Ranges of one call that are not farther apart obstore reads by one request, gap included."""
_TOGETHER_COUNT: Final = 8
"""Of the ranges of one call obstore reads ten at a time."""
_TOGETHER_BYTES: Final = 1 << 20
"""Longer ones are worth a call each, so that nobody waits for others' bytes."""

_BEYOND: Final = "416"
"""In the message for a range that begins after the end of its object: HTTP's status."""
_BROKEN: Final = "request or response body error"
"""In the message for an answer that broke off. obstore asks again for the bytes of an object, not for a listing, or that there is none."""
_TRIES: Final = 3
"""So often these are asked for."""

T = TypeVar("T")


class _Asked(NamedTuple):
    """A range that somebody waits for."""

    start: int
    length: int
    data: asyncio.Future[memoryview]


class ObstoreObjects:
    """Objects of an obstore store whose prefix is the root.

    Parameters
    ----------
    store
        An obstore store.
    make_once
        Makes the same without retries, for creating objects: a create that is tried again can be refused because of itself.
        It is made when it is needed, for that takes some milliseconds, as long as a small request.
    name
        The root as a URL, for messages.
    """

    create_is_atomic = True
    create_refusals_are_final = True

    def __init__(self, store: "ObjectStore", make_once: "Callable[[], ObjectStore]", name: str) -> None:
        self._store = store
        self._make_once = make_once
        self.name = name
        self._in_flight: set[asyncio.Future[Any]] = set()
        self._asked: dict[asyncio.AbstractEventLoop, dict[str, list[_Asked]]] = {}

    @cached_property
    def _store_once(self) -> "ObjectStore":
        return self._make_once()

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""

        async def read() -> Data:
            result = await self._finish(obstore.get_async(self._store, path))
            return memoryview(await self._finish(result.bytes_async()))

        try:
            return await _unbroken(read)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._failed(path, error) from error
            return None
        except failures.BaseError as error:
            raise self._failed(path, error) from error

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        try:
            return await _unbroken(lambda: self._range(path, start, length))
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.name}/{path}: there is no such object.") from error
        except failures.BaseError as error:
            raise self._failed(path, error) from error

    def _range(self, path: str, start: int, length: int) -> asyncio.Future[memoryview]:
        loop = asyncio.get_running_loop()
        asked = _Asked(start, length, loop.create_future())
        if loop not in self._asked:
            self._asked[loop] = {}
            loop.call_soon(self._send, loop)
        self._asked[loop].setdefault(path, []).append(asked)
        return asked.data

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask for the ranges that one tick of a loop has gathered, by few calls: each answer wakes a thread of obstore's."""
        for path, ranges in self._asked.pop(loop).items():
            for group in _groups([one for one in ranges if not one.data.done()]):
                self._ask(path, group)

    def _ask(self, path: str, group: Sequence[_Asked]) -> None:
        try:
            future = asyncio.ensure_future(self._request(path, group))
        except Exception as error:  # noqa: BLE001 - who waits is told
            for one in group:
                _tell(one, error)
            return
        self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        future.add_done_callback(partial(self._answer, path, group))

    def _request(self, path: str, group: Sequence[_Asked]) -> Awaitable[Any]:
        if len(group) == 1:
            (one,) = group
            return obstore.get_range_async(self._store, path, start=one.start, length=one.length)
        starts, lengths = [one.start for one in group], [one.length for one in group]
        return obstore.get_ranges_async(self._store, path, starts=starts, lengths=lengths)

    def _answer(self, path: str, group: Sequence[_Asked], future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            for one in group:
                one.data.cancel()
            return
        error = future.exception()
        if error is None:
            datas = future.result() if len(group) > 1 else [future.result()]
            for one, data in zip(group, datas, strict=True):
                _tell(one, memoryview(data))
        elif len(group) > 1 and _BEYOND in str(error):
            for one in group:  # one of them is wrong, the others are not
                self._ask(path, [one])
        else:
            for one in group:
                _tell(one, error)

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        try:
            is_long = size_of(data) > PART_BYTES
            whole = joined(data) if is_long else data
            request = obstore.put_async(
                self._store, path, whole, chunk_size=PART_BYTES, use_multipart=is_long
            )
            await self._finish(request)
        except (failures.BaseError, OSError) as error:
            raise self._failed(path, error) from error

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        try:
            request = obstore.put_async(self._store_once, path, data, mode="create", use_multipart=False)
            await self._finish(request)
        except failures.AlreadyExistsError:
            return False
        except (failures.BaseError, OSError) as error:
            raise self._failed(path, error) from error
        return True

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""

        async def read() -> list[ObjectInfo]:
            found: list[ObjectInfo] = []
            batches = obstore.list(self._store, prefix or None, chunk_size=1000)
            with contextlib.suppress(StopAsyncIteration):
                while limit is None or len(found) < limit:
                    found.extend(
                        ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())
                        for meta in await self._finish(anext(batches))
                    )
            return found

        try:
            return sorted(await _unbroken(read))[:limit]
        except (failures.BaseError, OSError) as error:
            raise self._failed(prefix, error) from error

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        try:
            await self._finish(obstore.delete_async(self._store, list(paths)))
        except FileNotFoundError:
            return
        except failures.BaseError as error:
            raise self._failed(",".join(paths[:3]), error) from error

    async def close(self) -> None:
        """Wait for the requests whose callers went away."""
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _finish(self, request: Awaitable[T]) -> T:
        """Await a request of obstore's, which goes on when the caller is cancelled.

        A cancelled one would be dropped by a thread of obstore's at a moment that nobody can wait for.
        """
        future = asyncio.ensure_future(request)
        self._in_flight.add(future)
        future.add_done_callback(self._in_flight.discard)
        return await asyncio.shield(future)

    def _failed(self, path: str, error: Any) -> StorageError:
        text = str(error).split("Debug source:")[0].strip()
        where = f"{self.name}/{path}"
        denied = isinstance(error, failures.PermissionDeniedError | failures.UnauthenticatedError)
        if denied or any(hint in text for hint in _ACCESS_HINTS):
            return AccessError(
                f"{where}: {text} Check that the bucket exists and that the credentials (storage_options 'key' and "
                "'secret', or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) may use it; 'anon': True for public data."
            )
        return StorageError(
            f"{where}: {text} Check the endpoint and the network; what was committed before is safe."
        )


async def _unbroken(read: Callable[[], Awaitable[T]]) -> T:
    """Return what is read, asked for again where the answer broke off."""
    for _ in range(_TRIES - 1):
        try:
            return await read()
        except failures.GenericError as error:
            if _BROKEN not in str(error):
                raise
    return await read()


def _tell(asked: _Asked, answer: memoryview | BaseException) -> None:
    if asked.data.done():
        return
    if isinstance(answer, BaseException):
        asked.data.set_exception(answer)
    else:
        asked.data.set_result(answer)


def _groups(ranges: Sequence[_Asked]) -> list[list[_Asked]]:
    """Put ranges together that obstore does not merge."""
    groups: list[list[_Asked]] = []
    for one in sorted(ranges, key=lambda one: (one.start, one.length)):
        for group in groups:
            if (
                one.start - group[-1].start - group[-1].length > _APART_BYTES
                and len(group) < _TOGETHER_COUNT
                and one.length + sum(other.length for other in group) <= _TOGETHER_BYTES
            ):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups
