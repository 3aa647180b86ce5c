"""Do callers get what a coroutine in the engine's loop returns or raises, even one that is not there any more?"""

import asyncio
import gc
import threading

import pytest

from zarrvec.engine.bridge import in_engine_thread, run, run_sync


class Watched(asyncio.SelectorEventLoop):
    """Says when another thread has called."""

    def __init__(self):
        super().__init__()
        self.was_called = threading.Event()

    def call_soon_threadsafe(self, callback, *given, context=None):  # type: ignore[override]
        handle = super().call_soon_threadsafe(callback, *given, context=context)
        self.was_called.set()
        return handle


async def fail():
    raise KeyError("asked for")


async def where():
    return in_engine_thread()


def test_results_and_errors():
    assert run_sync(where())
    assert asyncio.run(run(where()))
    for call in (run_sync, lambda coroutine: asyncio.run(run(coroutine))):
        with pytest.raises(KeyError, match="asked for"):
            call(fail())


def test_a_caller_that_is_cancelled_cancels():
    begun, cancelled = threading.Event(), threading.Event()

    async def wait():
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def give_up():
        task = asyncio.ensure_future(run(wait()))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    assert cancelled.wait(10)


def test_an_error_for_which_nobody_waits_any_more_is_not_reported_as_lost():
    """As when the loop of zarr is stopped with requests under way, since one of several has failed."""
    reported = []
    loop = Watched()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    begun, may_end = threading.Event(), threading.Event()

    async def fail_later():
        begun.set()
        await asyncio.to_thread(may_end.wait)
        await fail()

    task = loop.create_task(run(fail_later()))
    loop.run_until_complete(asyncio.to_thread(begun.wait))
    loop.was_called.clear()
    may_end.set()
    assert loop.was_called.wait(10)
    loop.call_soon(loop.stop)
    loop.run_forever()  # the answer comes in, and nobody looks at it
    loop.close()
    del task
    gc.collect()
    assert not [message for message in reported if "never retrieved" in message]
