"""How do single reads that are asked for at the same time become one batch?

zarr and fsspec send one `get` per chunk; those that arrive together are located, merged and fetched together.
"""

import asyncio

from zarrvec.engine.reader import Found, Reader, Request
from zarrvec.engine.version import View

_TICKS = 3
"""Turns of the loop to wait for more: calls from other threads arrive one by one."""


class Gatherer:
    """Gathers single reads.

    Parameters
    ----------
    reader
        Does the reading.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._waiting: dict[
            tuple[int, int], tuple[View, list[tuple[Request, asyncio.Future[Found | None]]]]
        ] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, view: View, request: Request) -> Found | None:
        """Read one value of a view."""
        identity = (id(view.version), id(view.overlay) if view.overlay else 0)
        future: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        if identity in self._waiting:
            self._waiting[identity][1].append((request, future))
        else:
            view = view if view.overlay else View(version=view.version)  # an overlay may fill up meanwhile
            self._waiting[identity] = (view, [(request, future)])
            task = asyncio.ensure_future(self._flush(identity))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _flush(self, identity: tuple[int, int]) -> None:
        for _ in range(_TICKS):
            await asyncio.sleep(0)
        view, batch = self._waiting.pop(identity)
        try:
            found = await self._reader.read(view, [request for request, _ in batch])
        except BaseException as error:
            if len(batch) > 1 and isinstance(error, Exception):
                await self._each(view, batch)
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), value in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(value)

    async def _each(self, view: View, batch: list[tuple[Request, asyncio.Future[Found | None]]]) -> None:
        """Read one by one, so that a damaged value fails only those who asked for it."""
        for request, future in batch:
            try:
                value = (await self._reader.read(view, [request]))[0]
            except Exception as error:  # noqa: BLE001 - handed to the one who asked
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(value)
