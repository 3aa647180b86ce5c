"""Old automatic commits are dropped; marked, young and newest ones stay, and nobody is misled by a gap."""

import asyncio

import pytest

from zarrvec.engine import heads as heads_module
from zarrvec.engine.changes import Changes
from zarrvec.engine.engine import Engine, Place
from zarrvec.engine.version import View
from zarrvec.layout.delta import Delta
from zarrvec.objects.memory import MemoryObjects
from zarrvec.types import Entry


def engine_on(objects):
    return Engine(Place(protocol="memory", root="x"), objects)


async def write(engine, key, value, message=""):
    changes = Changes(delta=Delta({key: Entry.inline(value)}), message=message, automatic=not message)
    return await engine.commit(changes)


async def settled(engine):
    while engine._background:
        await asyncio.gather(*engine._background)


async def test_old_automatic_commits_go_and_marked_ones_stay():
    stored: dict[str, tuple[bytes, float]] = {}
    objects = MemoryObjects("memory://x", stored)
    engine = engine_on(objects)
    for number in range(1, 150):
        await write(engine, f"k{number % 7}", b"%d" % number, message="kept" if number in (3, 20) else "")
    await settled(engine)
    assert len(await engine.heads.numbers()) == 149  # all are young
    for path, (data, modified) in list(stored.items()):
        stored[path] = (data, modified - 10_000)
    for number in range(150, 193):
        await write(engine, f"k{number % 7}", b"%d" % number)
    await settled(engine)
    numbers = await engine.heads.numbers()
    assert numbers[-2:] == [20, 3]
    assert numbers[:64] == list(range(192, 128, -1))
    assert len(numbers) == 66


async def test_many_young_commits_hide_no_old_ones():
    """Where more are made in ten minutes than are looked at."""
    stored: dict[str, tuple[bytes, float]] = {}
    engine = engine_on(MemoryObjects("memory://x", stored))
    for number in range(1, 101):
        await write(engine, "k", b"%d" % number)
    await settled(engine)
    for path, (data, modified) in list(stored.items()):
        stored[path] = (data, modified - 10_000)
    for number in range(101, 513):
        await write(engine, "k", b"%d" % number)
    await settled(engine)
    assert await engine.heads.numbers() == list(range(512, 100, -1))


async def test_a_writer_with_an_old_head_looks_before_it_commits(monkeypatch):
    objects = MemoryObjects("memory://x")
    idle, busy = engine_on(objects), engine_on(objects)
    await write(idle, "a", b"1")
    for number in range(5):
        await write(busy, "b", b"%d" % number)
    gone = [heads_module.commit_path("main", number) for number in range(1, 6)]
    await objects.delete(gone)  # as if dropped: the number after the idle writer's head is free again
    later = heads_module.now() + heads_module.TRUST_NEXT_SECONDS + 1
    monkeypatch.setattr(heads_module, "now", lambda: later)
    monkeypatch.setattr("zarrvec.engine.committer.now", lambda: later)
    version = await write(idle, "c", b"3")
    assert version.number == 7
    assert [info.path for info in await objects.list("refs/heads/main/")] == [
        heads_module.commit_path("main", number) for number in (7, 6)
    ]
    found = await idle.reader.locate(View(version=version), ["a", "b", "c"])
    assert [entry.data for entry in found] == [b"1", b"4", b"3"]


@pytest.mark.parametrize("count", [1, 64, 65])
async def test_few_commits_are_left_alone(count):
    objects = MemoryObjects("memory://x")
    engine = engine_on(objects)
    for number in range(count):
        await write(engine, "k", b"%d" % number)
    await settled(engine)
    assert len(await engine.heads.numbers()) == count


async def test_a_writer_that_slept_while_it_committed_is_not_fooled(monkeypatch):
    objects = MemoryObjects("memory://x")
    idle, busy = engine_on(objects), engine_on(objects)
    await write(idle, "a", b"1")
    create = objects.create
    slept = heads_module.TRUST_NEXT_SECONDS + 1

    async def create_after_sleep(path, data):
        monkeypatch.setattr(objects, "create", create)
        for number in range(5):
            await write(busy, "b", b"%d" % number)
        await objects.delete([heads_module.commit_path("main", number) for number in range(1, 6)])
        later = heads_module.now() + slept
        monkeypatch.setattr(heads_module, "now", lambda: later)
        monkeypatch.setattr("zarrvec.engine.committer.now", lambda: later)
        return await create(path, data)

    monkeypatch.setattr(objects, "create", create_after_sleep)
    version = await write(idle, "c", b"3")
    assert version.number == 7
    found = await idle.reader.locate(View(version=version), ["a", "b", "c"])
    assert [entry.data for entry in found] == [b"1", b"4", b"3"]
