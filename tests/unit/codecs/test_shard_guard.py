import asyncio
import gc
import threading

import pytest
from obstore.store import MemoryStore as ObjectMemory
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from zarrvec.codecs.shard_guard import _State, guard_of, name_of_store


async def test_turns_are_taken_in_order_and_given_up_ones_are_passed_over():
    guard = guard_of("x")
    order = []

    async def write(name):
        async with guard.turn(changes=True):
            order.append(name)
            await asyncio.sleep(0)

    async with guard.turn(changes=True):
        assert guard.seen() is None
        waiting = [asyncio.create_task(write(name)) for name in "abc"]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["a", "c"]
    assert guard.seen() == 3


async def test_a_turn_that_comes_as_its_waiter_gives_up_goes_to_the_next():
    guard = guard_of("x")

    async def wait():
        async with guard.turn(changes=False):
            pass

    async with guard.turn(changes=False):
        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
    first.cancel()  # it has its turn, but has not run yet
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 5)
    assert guard.seen() == 0


def test_threads_and_loops_wait_for_one_another():
    guard = guard_of("x")
    held: list[int] = []

    def work_sync():
        for _ in range(50):
            with guard.turn_sync():
                held.append(1)
                assert len(held) == 1
                held.pop()

    async def work():
        for _ in range(50):
            async with guard.turn(changes=True):
                held.append(1)
                await asyncio.sleep(0)
                assert len(held) == 1
                held.pop()

    threads = [threading.Thread(target=work_sync), threading.Thread(target=lambda: asyncio.run(work()))]
    for thread in threads:
        thread.start()
    asyncio.run(work())
    for thread in threads:
        thread.join()
    assert guard.seen() == 150


def test_unless_changed():
    guard = guard_of("x")
    seen = guard.seen()
    done = []
    assert guard.unless_changed(seen, lambda: done.append(1))
    with guard.turn_sync():
        assert not guard.unless_changed(seen, lambda: done.append(2))
    assert not guard.unless_changed(seen, lambda: done.append(3))
    assert not guard.unless_changed(None, lambda: done.append(4))
    assert done == [1]


def test_guards_are_shared_while_they_are_held_and_then_forgotten():
    guard = guard_of("x")
    assert guard_of("x") is guard
    assert guard_of("y") is not guard
    del guard
    gc.collect()
    assert "x" not in _State.guards


def test_names_of_stores(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    memory, objects = MemoryStore(), ObjectMemory()
    same = [
        (LocalStore(tmp_path), LocalStore(tmp_path / "link", read_only=True)),
        (FsspecStore.from_url(f"file://{tmp_path}"), FsspecStore.from_url(f"file://{tmp_path}")),
        (memory, memory.with_read_only(read_only=True)),
        (ObjectStore(objects), ObjectStore(objects, read_only=True)),
    ]
    names = set()
    for one, other in same:
        assert name_of_store(one) == name_of_store(other)
        names.add(name_of_store(one))
    names.add(name_of_store(MemoryStore()))
    names.add(name_of_store(ObjectStore(ObjectMemory())))
    names.add(name_of_store(LocalStore(tmp_path / "a")))
    assert len(names) == 7
