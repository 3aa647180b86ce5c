"""Whether a write conflicts is judged by the newest commit, not by one that was met on the way to it."""

from zarrvec.engine.changes import Changes
from zarrvec.engine.engine import Engine, Place
from zarrvec.engine.version import View
from zarrvec.layout.delta import Delta
from zarrvec.objects.memory import MemoryObjects
from zarrvec.types import Clear, Entry

DOCUMENT = "a/zarr.json"


async def test_deleting_what_others_changed_and_then_deleted():
    objects = MemoryObjects("memory://x")
    mine, theirs = (Engine(Place(protocol="memory", root="x"), objects) for _ in range(2))
    await mine.commit(Changes(delta=Delta({DOCUMENT: Entry.inline(b"1")})))
    await theirs.commit(Changes(delta=Delta({DOCUMENT: Entry.inline(b"2")})))
    await theirs.commit(Changes(delta=Delta(clears=[Clear("a", 0)])))
    version = await mine.commit(Changes(delta=Delta({DOCUMENT: Entry(0)}), expects={DOCUMENT: 1}))
    assert await mine.reader.locate(View(version=version), [DOCUMENT]) == [None]
