"""Packs that are sent before the end of a transaction: the last one doesn't wait for them, the commit does."""

import asyncio

import pytest

from zarrvec.engine.engine import Engine, Place
from zarrvec.engine.staging import AHEAD_BYTES
from zarrvec.engine.version import View
from zarrvec.engine.writer import UPLOADS
from zarrvec.errors import StorageError
from zarrvec.format.pack import pack_name
from zarrvec.objects.memory import MemoryObjects
from zarrvec.objects.protocol import Parts
from zarrvec.repository import Repository


class SlowObjects(MemoryObjects):
    """The first pack is not there before the second one is."""

    fails = False

    def __init__(self) -> None:
        super().__init__("memory://x")
        self.began: list[str] = []
        self.created: list[int] = []
        self.second = asyncio.Event()

    async def put(self, path: str, data: Parts) -> None:
        self.began.append(path)
        if len(self.began) == 1:
            await asyncio.wait_for(self.second.wait(), timeout=10)
            if self.fails:
                raise StorageError("no such luck")
        await super().put(path, data)
        if len(self.began) == 2:
            self.second.set()

    async def create(self, path: str, data: bytes) -> bool:
        self.created.append(len(self._objects))
        return await super().create(path, data)


class LateObjects(MemoryObjects):
    """Packs take a moment, so that several wait."""

    async def put(self, path: str, data: Parts) -> None:
        await asyncio.sleep(0.01)
        await super().put(path, data)


class StuckObjects(MemoryObjects):
    """No pack ever gets there."""

    async def put(self, path: str, data: Parts) -> None:
        await asyncio.Event().wait()


async def staged(objects: SlowObjects):
    engine = Engine(Place(protocol="memory", root="x"), objects)
    staging = engine.stage(await engine.current(checked_after=-1.0))
    await staging.put("a/c/0", bytes(AHEAD_BYTES))
    await staging.send_ahead()
    await staging.put("a/c/1", bytes(10_000))
    return engine, staging


async def test_packs_are_sent_side_by_side_and_the_commit_follows_both():
    objects = SlowObjects()
    engine, staging = await staged(objects)
    version = await engine.commit(staging.changes())
    assert objects.created[-1] >= 2
    entries = await engine.reader.locate(View(version=version), ["a/c/0", "a/c/1"])
    assert [entry.length for entry in entries] == [AHEAD_BYTES, 10_000]
    assert {pack_name(entry.pack) for entry in entries} == set(objects.began)


async def test_what_waits_for_its_pack_can_be_read_in_the_transaction():
    _, staging = await staged(SlowObjects())
    assert staging.view.overlay.entries["a/c/0"].data == bytes(AHEAD_BYTES)
    await staging.discard()


async def test_when_it_returns_the_request_has_been_made():
    objects = SlowObjects()
    _, staging = await staged(objects)
    assert len(objects.began) == 1
    assert not objects.second.is_set()
    await staging.discard()


async def test_what_hurries_is_sent_by_the_call_that_writes_it():
    objects = SlowObjects()
    repository = Repository(Place(protocol="memory", root="x"))
    engine = Engine(repository.place, objects)
    staging = engine.stage(await engine.current(checked_after=-1.0))
    staging.hurries = True
    await repository.stage(staging, {"a/c/1": bytes(10_000)})
    assert not objects.began  # it is not worth a pack
    await repository.stage(staging, {"a/c/0": bytes(AHEAD_BYTES)})
    assert len(objects.began) == 1
    await staging.discard()


async def test_who_waits_to_send_goes_on_when_the_writes_are_given_up():
    objects = StuckObjects("memory://x")
    engine = Engine(Place(protocol="memory", root="x"), objects)
    version = await engine.current(checked_after=-1.0)
    *others, last = (engine.stage(version) for _ in range(UPLOADS + 1))
    for staging in [*others, last]:
        await staging.put("a/c/0", bytes(AHEAD_BYTES))
    for staging in others:
        await staging.send_ahead()
    waiting = asyncio.ensure_future(last.send_ahead())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await last.discard()
    await asyncio.wait_for(waiting, timeout=10)
    for staging in others:
        await staging.discard()


async def test_nothing_lands_if_a_pack_that_was_sent_ahead_does_not():
    objects = SlowObjects()
    objects.fails = True
    engine, staging = await staged(objects)
    with pytest.raises(StorageError, match="no such luck"):
        await engine.commit(staging.changes())
    assert (await engine.heads.newest()).number == 0
    await staging.discard()


async def test_tasks_that_wait_for_the_same_pack_on_its_way():
    engine = Engine(Place(protocol="memory", root="x"), LateObjects("memory://x"))
    staging = engine.stage(await engine.current(checked_after=-1.0))

    async def send(number: int) -> None:
        await staging.put(f"a/c/{number}", bytes(AHEAD_BYTES))
        await staging.send_ahead()

    await asyncio.gather(*map(send, range(6)))
    version = await engine.commit(staging.changes())
    entries = await engine.reader.locate(View(version=version), [f"a/c/{number}" for number in range(6)])
    assert len({entry.pack for entry in entries}) == 6
