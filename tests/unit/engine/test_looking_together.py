"""Handles that look for a newer commit at the same time share a look, and none waits for ever."""

import asyncio

import pytest

from zarrvec.engine.heads import Heads, now
from zarrvec.objects.memory import MemoryObjects


class SlowObjects(MemoryObjects):
    """A listing takes a while, and just before it ends something is called."""

    listings = 0

    def __init__(self):
        super().__init__("memory")
        self.on_listed = []

    async def list(self, prefix, *, limit=None):
        self.listings += 1
        await asyncio.sleep(0.01)
        found = await super().list(prefix, limit=limit)
        while self.on_listed:
            self.on_listed.pop()()
        return found


@pytest.mark.timeout(10)
async def test_who_comes_as_a_look_ends_that_began_too_early_makes_another():
    """It used to wait for the look that had ended, again and again, and nothing else in the loop ran any more."""
    objects = SlowObjects()
    heads = Heads(objects, "main")
    later = []
    objects.on_listed.append(lambda: later.append(asyncio.ensure_future(heads.current(checked_after=now()))))
    first = await heads.current(checked_after=now())
    assert (await later[0]).number == first.number == 0
    assert objects.listings == 2


async def test_those_that_come_during_a_look_share_the_next():
    objects = SlowObjects()
    heads = Heads(objects, "main")
    first = asyncio.ensure_future(heads.current(checked_after=now()))
    await asyncio.sleep(0.002)
    await asyncio.gather(first, *(heads.current(checked_after=now()) for _ in range(5)))
    assert objects.listings == 2
