"""How do callers in any thread or event loop reach the engine? It has a loop of its own, in a thread of its own.

zarr, fsspec and the user each may run their own loops; nothing of the engine is bound to one of theirs. A forked child
makes its own loop.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


_PATIENCE_SECONDS = 10  # how long the end of the interpreter waits for requests in flight


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows which threads are calling into it.

    obstore's threads hand results over by `call_soon_threadsafe`. One that is still inside it when the interpreter ends,
    because the loop was faster than the rest of the call, is ended by CPython amid foreign frames: the process aborts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.callers: set[int] = set()

    def call_soon_threadsafe(  # type: ignore[override] # mypy knows no other signature with a TypeVarTuple as equal
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        me = threading.get_ident()
        self.callers.add(me)
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            self.callers.discard(me)


class _Bridge:
    loop: _Loop | None = None
    thread: threading.Thread | None = None
    lock = threading.Lock()
    after_fork: list[Callable[[], None]] = []  # noqa: RUF012 - one per process, on purpose
    before_stop: list[Callable[[], Coroutine[Any, Any, None]]] = []  # noqa: RUF012

    @classmethod
    def get_loop(cls) -> asyncio.AbstractEventLoop:
        with cls.lock:
            if cls.loop is None:
                cls.loop = _Loop()
                cls.thread = threading.Thread(target=cls.loop.run_forever, name="zarrvec", daemon=True)
                cls.thread.start()
            return cls.loop

    @classmethod
    def reset(cls) -> None:
        cls.loop = cls.thread = None
        cls.lock = threading.Lock()
        _ASKED.clear()
        for function in cls.after_fork:
            function()

    @classmethod
    def stop(cls) -> None:
        """End the loop with no request in flight: obstore's threads panic otherwise."""
        loop, thread = cls.loop, cls.thread
        if loop is None or thread is None or not thread.is_alive():
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(timeout=_PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=_PATIENCE_SECONDS)
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while loop.callers and time.monotonic() < give_up:
            time.sleep(0.001)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for function in _Bridge.before_stop:
        await function()


def in_engine_thread() -> bool:
    """Whether the caller already runs in the engine's loop."""
    return threading.current_thread() is _Bridge.thread


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the engine's loop and wait for it, from any thread but the engine's."""
    if in_engine_thread():
        coroutine.close()
        raise RuntimeError("run_sync was called inside the engine's own loop; await the coroutine there.")
    future = asyncio.run_coroutine_threadsafe(coroutine, _Bridge.get_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the engine's loop and await it in the caller's."""
    if in_engine_thread():
        return await coroutine
    loop = asyncio.get_running_loop()
    asked = _Asked(coroutine)
    if loop not in _ASKED:
        _ASKED[loop] = []
        loop.call_soon(_hand_over, loop)
    _ASKED[loop].append(asked)
    task: asyncio.Future[T] = await asyncio.wrap_future(asked.done)
    return task.result()


@dataclass(slots=True, eq=False)
class _Asked:
    """What a caller in another loop waits for."""

    coroutine: Coroutine[Any, Any, Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    done: concurrent.futures.Future[asyncio.Future[Any]] = field(default_factory=concurrent.futures.Future)
    """Its result is the task when that is done, so that an error for which nobody waits any more is not reported as lost."""

    def start(self) -> None:
        if self.done.cancelled():
            self.coroutine.close()
            return
        task = self.context.run(asyncio.ensure_future, self.coroutine)
        loop = task.get_loop()
        self.done.add_done_callback(
            lambda done: loop.call_soon_threadsafe(task.cancel) if done.cancelled() else None
        )
        task.add_done_callback(self.pass_on)

    def pass_on(self, task: asyncio.Future[Any]) -> None:
        if task.cancelled():
            self.done.cancel()
        if not self.done.set_running_or_notify_cancel():
            return
        task.exception()
        self.done.set_result(task)


_ASKED: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}


def _hand_over(loop: asyncio.AbstractEventLoop) -> None:
    """Start all that one tick of a caller's loop asks for in one tick of the engine's: such calls share commits."""
    together = _ASKED.pop(loop, [])
    _Bridge.get_loop().call_soon_threadsafe(_start, together)


def _start(together: Sequence[_Asked]) -> None:
    for asked in together:
        asked.start()


def call_after_fork(function: Callable[[], None]) -> None:
    """Have a function called in every forked child, after the loop is dropped."""
    _Bridge.after_fork.append(function)


def call_before_stop(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have a coroutine run in the engine's loop when the interpreter ends."""
    _Bridge.before_stop.append(function)


os.register_at_fork(after_in_child=_Bridge.reset)
atexit.register(_Bridge.stop)
