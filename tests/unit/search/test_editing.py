"""Is an index on a plain store changed by few requests, is it whole when two change it at once, and are its rows never stale?"""

import asyncio
import itertools
import re
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from zarrvec.errors import ConflictError, SearchError
from zarrvec.search import editing, extending
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.editing import Editor
from zarrvec.search.head import new_id
from zarrvec.search.places import Snapshot

pytestmark = pytest.mark.usefixtures("quick_builds")

ALL = 10**6
WIDTH = 6


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("f4")


class Counting(WrapperStore[Any]):
    """Counts requests, and rounds of those that are under way at one time."""

    def __init__(self, store):
        super().__init__(store)
        self.log: list[str] = []
        self.seconds = 0.0
        """A request takes so long; what is asked for side by side overlaps, if that is enough for a busy machine."""
        self.rounds = self._running = 0

    async def _count(self, kind, key, function):
        if not self._running:
            self.rounds += 1
        self._running += 1
        try:
            await asyncio.sleep(self.seconds)
            self.log.append(f"{kind} {key}")
            return await function
        finally:
            self._running -= 1

    async def get(self, key, prototype, byte_range=None):
        return await self._count("get", key, self._store.get(key, prototype, byte_range))

    async def set(self, key, value):
        await self._count("set", key, self._store.set(key, value))

    async def exists(self, key):
        return await self._count("exists", key, self._store.exists(key))

    async def delete(self, key):
        await self._count("delete", key, self._store.delete(key))

    async def delete_dir(self, prefix):
        await self._count("delete", prefix, self._store.delete_dir(prefix))

    async def list_dir(self, prefix):
        self.rounds += 1
        self.log.append(f"list {prefix}")
        async for name in self._store.list_dir(prefix):
            yield name

    def take(self):
        """Return requests of the array, those of the index, and rounds; begin anew."""
        log, rounds = self.log, self.rounds
        self.log, self.rounds = [], 0
        of_index = [line for line in log if re.search(r" emb\.vec\b", line)]
        return len(log) - len(of_index), len(of_index), rounds


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)


def make(store=None, count=60):
    array: Any = zarr.create_array(
        MemoryStore() if store is None else store, name="emb", data=rows(count), chunks=(20, WIDTH)
    )
    array.vec.build_index(metric="l2", nlist=4)
    return array


def found(array):
    """Return the rows that all lists and what is compared besides find for themselves."""
    ROOTS.clear()
    LISTS.clear()
    hits = array.vec.search(array[...], 1, metric="l2", nprobe=ALL, rerank=True)
    assert hits.stats.nprobe is not None
    return set(np.flatnonzero(hits.ids[:, 0] == np.arange(array.shape[0])).tolist())


def test_requests_of_changes(small):
    store = Counting(MemoryStore())
    make(store)
    opened = zarr.open_array(store, path="emb")
    ROOTS.clear()
    store.take()
    store.seconds = 0.2
    opened.vec.append(rows(20, 1))  # a whole chunk
    # the metadata of the array read and written, and a chunk; the head, what the index is opened by, five values, the head
    # looked at again, the head
    *requests, rounds = store.take()
    assert requests == [3, 11]
    assert rounds <= 9
    opened.vec.delete([3])
    *requests, rounds = store.take()
    assert requests == [0, 5]
    assert rounds <= 5
    store.seconds = 0
    opened.vec.append(rows(30, 2))
    assert store.take()[:2] == (4, 11)  # the index is known but for the last segment and the deleted ids
    opened.vec.append(rows(2, 3))
    assert store.take()[1] == 4  # too few rows for a segment; nor are these known of the new head
    opened.vec.append(rows(2, 4))
    assert store.take()[1] == 1
    assert found(opened) == set(range(114)) - {3}


def test_requests_of_a_build(small):
    store = Counting(MemoryStore())
    array = zarr.create_array(store, name="emb", data=rows(60), chunks=(20, WIDTH))
    store.take()
    array.vec.build_index(metric="l2", nlist=4)
    of_array, of_index, _ = store.take()
    assert of_array == 8  # once for the origin, and twice for an index inside of it
    assert of_index <= 14  # seven values of a segment, the head, and looks at what is there


CHANGES: dict[str, Any] = {
    "build": lambda array: array.vec.build_index(metric="l2", nlist=3),
    "append": lambda array: array.vec.append(rows(30, 7)),
    "delete": lambda array: array.vec.delete([7]),
    "optimize": lambda array: array.vec.optimize(),
    "drop": lambda array: array.vec.drop_index(),
}


@pytest.mark.parametrize(
    ("change", "other"),
    [  # two that append to one array at once lose rows of it on a plain store
        pair
        for pair in itertools.product(["build", "append", "delete", "optimize"], CHANGES)
        if pair != ("append", "append")
    ],
)
def test_a_change_while_another_is_under_way(small, monkeypatch, change, other):
    array = make()
    array.vec.append(rows(30, 1))
    array.vec.delete([11])
    beside: Any = zarr.open_array(array.store_path.store, path="emb")
    finish = Editor.finish
    waiting = [CHANGES[other]]

    def interrupted(editor, *given, **named):
        if waiting:
            waiting.pop()(beside)
        return finish(editor, *given, **named)

    monkeypatch.setattr(Editor, "finish", interrupted)
    refused: dict[Any, Any] = {
        ("delete", "drop"): (SearchError, "no vector index"),
        ("optimize", "drop"): (ConflictError, "can be found again.*once more"),
    }
    if (change, other) in refused:
        error, message = refused[change, other]
        with pytest.raises(error, match=message):
            CHANGES[change](array)
        return
    CHANGES[change](array)
    assert not waiting
    array = zarr.open_array(array.store_path.store, path="emb")
    if (change, other) == ("append", "drop"):
        assert array.vec.search(array[...], 1, exact=True, metric="l2").ids[:, 0].tolist() == list(range(120))
        return
    deleted = {11} if other != "drop" else set()
    assert found(array) == set(range(array.shape[0])) - (
        deleted | {7} if "delete" in (change, other) else deleted
    )
    names = {key.split("/")[1] for key in array.store_path.store._store_dict if key.startswith("emb.vec/")}
    segments = array.vec.info()["segments"] + bool(array.vec.info()["deleted"])
    assert len(names) >= 1 + segments
    monkeypatch.setattr(editing, "ABANDONED_SECONDS", -1)
    array.vec.build_index(metric="l2", nlist=3)
    names = {key.split("/")[1] for key in array.store_path.store._store_dict if key.startswith("emb.vec/")}
    assert len(names) == 2 + bool(array.vec.info()["deleted"])


@pytest.mark.parametrize("change", ["build", "optimize"])
def test_rows_that_others_read_before_they_were_written_are_found(small, monkeypatch, change):
    array = make()
    array.vec.delete([11])
    beside: Any = zarr.open_array(array.store_path.store, path="emb")
    append_once = extending.append_once

    def slow(array, vectors, *given):
        shape = append_once(array, np.zeros_like(vectors), *given)
        CHANGES[change](zarr.open_array(array.store_path.store, path="emb"))
        beside.resize(shape)
        beside[60:] = vectors
        return shape

    monkeypatch.setattr(extending, "append_once", slow)
    array.vec.append(rows(30, 1))
    monkeypatch.undo()
    assert found(array) == set(range(90)) - {11}
    array.vec.optimize()
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert found(array) == set(range(90)) - {11}


def test_what_another_is_writing_is_left_alone(small):
    array = make()
    editor = Editor(Snapshot.of(array))
    editor.group.create_group(new_id())
    before = set(editor._names())
    array.vec.build_index(metric="l2", nlist=4)
    assert len(set(editor._names()) & before) == 2  # the head, and what is being written


@pytest.mark.parametrize("count", [5, 15, 40])
def test_rows_appended_where_others_were_cut_off(small, count):
    array = make()
    array.vec.append(rows(30, 1))
    array.vec.delete([85])
    array.resize((70, WIDTH))
    array.vec.append(rows(count, 2))
    for _ in range(3):
        everything = set(range(array.shape[0]))
        assert found(array) == everything
        array.vec.append(rows(20, 3 + array.shape[0]))
    assert array.vec.info()["segments"] == 2
    array.vec.optimize()
    assert (array.vec.info()["segments"], array.vec.info()["rows_out_of_lists"]) == (1, 0)
    array.vec.append(rows(20, 9))
    assert found(array) == set(range(array.shape[0]))
    assert array.vec.info()["segments"] == 2


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("change", ["build", "optimize"])
def test_rows_that_others_cut_off_after_they_were_read_are_found(small, monkeypatch, change, known):
    array = make()
    array.vec.append(rows(30, 1))
    array.vec.delete([11, 50])
    if change == "build" and not known:
        array.vec.drop_index()
    beside: Any = zarr.open_array(array.store_path.store, path="emb")
    finish = Editor.finish

    def interrupted(editor, *given, **named):
        monkeypatch.undo()
        if change == "build" and not known:
            CHANGES["build"](beside)
        beside.resize((40, WIDTH))
        beside.vec.append(rows(70, 2))
        return finish(editor, *given, **named)

    monkeypatch.setattr(Editor, "finish", interrupted)
    CHANGES[change](array)
    array = zarr.open_array(array.store_path.store, path="emb")
    deleted = set() if change == "build" and not known else {11}
    assert array.shape[0] == 110
    assert found(array) == set(range(110)) - deleted
    assert array.vec.info()["rows_out_of_lists"] == 70
    array.vec.optimize()
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert found(array) == set(range(110)) - deleted


def test_what_others_delete_after_rows_were_read_is_no_cut(small, monkeypatch):
    array = make()
    array.vec.append(rows(3, 1))  # too few for a segment
    beside: Any = zarr.open_array(array.store_path.store, path="emb")
    finish = Editor.finish

    def interrupted(editor, *given, **named):
        monkeypatch.undo()
        beside.vec.delete([7])
        return finish(editor, *given, **named)

    monkeypatch.setattr(Editor, "finish", interrupted)
    array.vec.build_index(metric="l2", nlist=3)
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert found(array) == set(range(63)) - {7}


def test_an_array_that_was_cut_and_not_appended_to(small):
    array = make()
    array.resize((40, WIDTH))
    assert found(array) == set(range(40))
    array.vec.optimize()
    array.vec.append(rows(20, 3))
    assert found(array) == set(range(60))


def test_a_handle_that_is_older_than_what_others_appended(small):
    array = make()
    other: Any = zarr.open_array(array.store_path.store, path="emb")
    other.append(rows(25, 1))
    assert array.shape == (60, WIDTH)
    assert array.vec.append(rows(30, 2)) == (115, WIDTH)
    assert found(array) == set(range(115))
    other.vec.append(rows(10, 3))
    array.vec.append(rows(10, 4))
    assert found(zarr.open_array(array.store_path.store, path="emb")) == set(range(135))


def test_a_copy_by_any_tool_on_a_store_without_versions_is_not_believed(small, tmp_path):
    """Which rows of the original changed after they were put into lists can't be known of the copy."""
    root = zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a")
    array = make(root.store)
    array[7] = 9
    store = LocalStore(tmp_path / "copy.zarr")

    async def copy():
        prototype = zarr.core.buffer.default_buffer_prototype()
        async for key in root.store.list():
            value = await root.store.get(key, prototype)
            assert value is not None
            await store.set(key, value)

    zarr.core.sync.sync(copy())
    copied: Any = zarr.open_array(store, path="emb", mode="r+")
    assert copied.vec.info()["rows_out_of_lists"] == 60
    assert found(copied) == set(range(60))
    copied.vec.append(rows(40, 1))
    assert found(copied) == set(range(100))
    copied.vec.optimize()
    assert copied.vec.info()["rows_out_of_lists"] == 0
    assert found(copied) == set(range(100))
