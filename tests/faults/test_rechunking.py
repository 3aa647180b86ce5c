"""Rechunking under crashes, races and other writers: nothing is lost, nothing is mixed, and a second call goes on."""

import asyncio
import contextlib
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.adapt import versioned
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import ConflictError, OptionError, StorageError, ZarrVecError
from zarrvec.testing.faults import Fault

_spec = importlib.util.spec_from_file_location("committing", Path(__file__).parent / "test_committing.py")
assert _spec is not None
assert _spec.loader is not None
committing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(committing)
Store, Process = committing.Store, committing.Process

SHAPE = (30, 20)
DATA = np.arange(600, dtype="i4").reshape(SHAPE)
MEMORY = 1600
"""400 cells, a block half of them: chunks of (5, 10) are made in blocks of (10, 20)."""
BLOCKS = 3


def prepare(*faults: Fault, zarr_format: Any = 3, path: str = "g/x", **options: Any) -> tuple[Any, Any]:
    store = Store()
    first = store.process()
    zarr.create_array(
        first.store, name=path or None, data=DATA, chunks=(3, 20), compressors=None, zarr_format=zarr_format,
        attributes={"unit": "m"}, fill_value=7, **options,
    )  # fmt: skip
    return store, store.process(*faults)


def rechunk(process: Any, path: str = "g/x", **more: Any) -> zarrvec.Rechunked:
    array = zarr.open_array(process.store, path=path or None, mode="r+")
    return zarrvec.rechunk(array, **{"chunks": (5, 10), "memory_bytes": MEMORY, **more})


def array_of(store: Any, path: str = "g/x") -> zarr.Array:
    return zarr.open_array(store.process().store, path=path or None, mode="r+")


def before_commit(process: Any, number: int, action: Callable[[], object], times: int = 1) -> None:
    """Let something happen just before some commits, after so many others."""

    async def act() -> None:
        await asyncio.to_thread(action)

    process.objects.faults.append(
        Fault(kind="run", operation="create", path="refs/heads", skip=number, times=times, action=act)
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("path", ["g/x", ""])
def test_nothing_but_chunks_changes(zarr_format, path):
    options = {} if zarr_format == 2 else {"dimension_names": ["a", "b"]}
    store, process = prepare(zarr_format=zarr_format, path=path, **options)
    old = array_of(store, path)
    commits = store.commits()
    done = rechunk(process, path)
    assert (done.blocks, done.passes, done.resumed) == (BLOCKS, 1, False)
    assert store.commits() == commits + BLOCKS + 1  # one for each block, and the last
    new = array_of(store, path)
    assert np.array_equal(new[...], DATA)
    assert new.chunks == done.array.chunks == (5, 10)
    before, after = old.metadata.to_dict(), new.metadata.to_dict()
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"chunks", "chunk_grid"}
    assert new.attrs["unit"] == "m"
    assert not [key for key in store.contents() if ".rechunk" in key]
    assert (
        len(
            [
                key
                for key in store.contents()
                if key.startswith(path) and "zarr.json" not in key and ".z" not in key
            ]
        )
        == 12
    )
    assert np.array_equal(zarrvec.at(new, commits)[...], DATA)
    assert zarrvec.at(new, commits).chunks == (3, 20)


@pytest.mark.parametrize(("kind", "path"), [("crash_before", "g/x"), ("crash_after", "")])
def test_a_crash_at_every_request(kind, path):
    store, process = prepare(path=path)
    rechunk(process, path)
    requests = len(process.objects.calls)
    seen: set[tuple[int, ...]] = set()
    for number in range(requests):
        store, process = prepare(Fault(kind=kind, skip=number), path=path)
        landed = store.commits()
        with contextlib.suppress(ZarrVecError):
            rechunk(process, path)
        array = array_of(store, path)
        seen.add(array.chunks)
        assert np.array_equal(array[...], DATA), f"request {number} of {requests}"
        steps = store.commits() - landed
        done = rechunk(store.process(), path)  # another process goes on
        assert done.blocks == max(0, BLOCKS - steps)
        assert done.resumed == (0 < steps <= BLOCKS)
        array = array_of(store, path)
        assert np.array_equal(array[...], DATA)
        assert array.chunks == (5, 10)
        assert not [key for key in store.contents() if ".rechunk" in key]
    assert seen == ({(3, 20)} if kind == "crash_before" else {(3, 20), (5, 10)})


@pytest.mark.parametrize("commit", range(BLOCKS + 1))
@pytest.mark.parametrize("theirs", ["part", "delete", "append", "shrink", "grow and shrink", "attributes"])
def test_what_others_write_meanwhile_lands(commit, theirs):
    """Whichever commit it comes before: the copy's steps, and the last."""
    store, process = prepare()
    other = array_of(store)
    expected = {"values": DATA.copy(), "unit": "m"}

    def act() -> None:
        values = expected["values"]
        if theirs == "part":
            other[4:8, 3:12] = -1
            values[4:8, 3:12] = -1
        elif theirs == "delete":
            other[0:3] = 7
            values[0:3] = 7
        elif theirs == "append":
            zarrvec.append(other, np.full((4, 20), 5))
            expected["values"] = np.concatenate([values, np.full((4, 20), 5, "i4")])
        elif theirs == "shrink":
            other.resize((17, 20))
            expected["values"] = values[:17]
        elif theirs == "grow and shrink":
            other.resize((17, 20))
            other.resize((25, 20))
            expected["values"] = np.concatenate([values[:18], np.full((7, 20), 7, "i4")])
        else:
            other.attrs["unit"] = expected["unit"] = "km"

    before_commit(process, commit, act)
    done = rechunk(process)
    array = array_of(store)
    assert array.chunks == (5, 10)
    assert array.attrs["unit"] == expected["unit"]
    assert np.array_equal(array[...], expected["values"])
    assert done.passes == (1 if theirs == "attributes" and commit < BLOCKS else 2)


def test_writers_that_know_the_old_chunks_are_told():
    store, process = prepare()
    others = [store.process() for _ in range(3)]
    arrays = [other.array("g/x") for other in others]
    for array in arrays:
        array[0, 0]
    rechunk(process)
    whole, part, reader = arrays
    with pytest.raises(ConflictError, match="rechunked or made anew"):
        whole[0:3] = 1
    with pytest.raises(ConflictError, match="rechunked or made anew"):
        part[0, 0] = 1
    others[2].repository.max_staleness = 0.0
    with pytest.raises(ConflictError, match="Open it again"):
        reader[0, 0]
    assert np.array_equal(array_of(store)[...], DATA)


def test_another_implementation_of_a_codec_is_the_same_codec():
    store = Store()
    writer = store.process()
    zarr.create_array(writer.store, name="x", data=DATA, chunks=(3, 5), shards=(6, 20))
    with zarr.config.set({"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}):
        array = array_of(store, "x")
    assert np.array_equal(array[...], DATA)
    array[0] = 0
    assert not array[0].any()


@pytest.mark.parametrize("selection", [np.s_[0:3], np.s_[0, 0], np.s_[...]])
def test_a_write_that_meets_the_last_commit_is_refused(selection):
    """Its chunks are of the old kind: landed after the last commit, they would be nonsense."""
    store, process = prepare()
    theirs = store.process()
    other = theirs.array("g/x")
    other[29, 19] = 0
    before_commit(theirs, 0, lambda: rechunk(process))
    with pytest.raises(ConflictError, match="rechunked or made anew"):
        other[selection] = 5
    expected = DATA.copy()
    expected[29, 19] = 0
    assert np.array_equal(array_of(store)[...], expected)


def test_an_append_that_meets_the_last_commit_lands():
    store, process = prepare()
    theirs = store.process()
    other = theirs.array("g/x")
    before_commit(theirs, 0, lambda: rechunk(process))
    zarrvec.append(other, np.zeros((2, 20), "i4"))
    array = array_of(store)
    assert array.chunks == (5, 10)
    assert np.array_equal(array[...], np.concatenate([DATA, np.zeros((2, 20), "i4")]))


def test_a_transaction_that_meets_the_last_commit_is_refused():
    store, process = prepare()
    theirs = store.process()
    other = theirs.array("g/x")
    with pytest.raises(ConflictError, match=r"g/x/zarr\.json"), zarrvec.transaction(other):
        other[0:3] = 5
        rechunk(process)
    assert np.array_equal(array_of(store)[...], DATA)


def test_readers_see_the_old_or_the_new():
    store, process = prepare()
    reader = store.process(staleness=0.0)
    seen = []

    def look() -> None:
        array = zarr.open_array(reader.store, path="g/x", mode="r")
        assert np.array_equal(array[...], DATA)
        seen.append(array.chunks)

    before_commit(process, 0, look, times=BLOCKS + 1)
    rechunk(process)
    look()
    assert seen == [(3, 20)] * (BLOCKS + 1) + [(5, 10)]


def test_two_at_once():
    store, process = prepare()
    before_commit(process, 2, lambda: rechunk(store.process()))
    with pytest.raises(ConflictError, match=r"another call is rechunking|Another writer"):
        rechunk(process)
    array = array_of(store)
    assert array.chunks == (5, 10)
    assert np.array_equal(array[...], DATA)


def test_another_layout_begins_anew():
    store, process = prepare(Fault(kind="crash_before", operation="create", path="refs/heads", skip=2))
    with pytest.raises(StorageError):
        rechunk(process)
    done = rechunk(store.process(), chunks=(6, 4))
    assert not done.resumed
    array = array_of(store)
    assert array.chunks == (6, 4)
    assert np.array_equal(array[...], DATA)


def test_what_was_copied_of_what_changed_since_is_copied_again():
    store, process = prepare(Fault(kind="crash_before", operation="create", path="refs/heads", skip=2))
    with pytest.raises(StorageError):
        rechunk(process)
    array_of(store)[0, 0] = -5
    done = rechunk(store.process())
    assert done.resumed
    assert done.blocks == 2  # the one that was left, and the one that changed
    expected = DATA.copy()
    expected[0, 0] = -5
    assert np.array_equal(array_of(store)[...], expected)


def test_a_writer_that_never_rests(monkeypatch):
    monkeypatch.setattr(versioned, "PASSES", 3)
    store, process = prepare()
    other = array_of(store)
    count = itertools.count()

    def write(stage: str, done: int, total: int) -> None:
        other[0, 0] = next(count)

    with pytest.raises(ConflictError, match="call again when fewer write"):
        rechunk(process, progress=write)
    assert "g/x.rechunk/rechunk" in store.contents()
    done = rechunk(store.process())
    assert done.resumed
    assert done.blocks == 1
    assert np.array_equal(array_of(store)[1:], DATA[1:])


def test_what_lies_where_the_copy_goes_is_not_touched():
    store, process = prepare()
    zarr.create_array(store.process().store, name="g/x.rechunk", data=np.arange(3))
    before = store.contents()
    with pytest.raises(OptionError, match="move it"):
        rechunk(process)
    assert store.contents() == before


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_follow(zarr_format):
    store, process = prepare(zarr_format=zarr_format)
    zarr.consolidate_metadata(store.process().store)
    rechunk(process)
    group = zarr.open_consolidated(store.process().store)
    assert group["g/x"].chunks == (5, 10)
    assert np.array_equal(group["g/x"][...], DATA)


@pytest.mark.parametrize("path", ["g/x", ""])
def test_what_else_lies_there_stays(path):
    store, process = prepare(path=path)
    key = f"{path}/notes.txt" if path else "notes.txt"
    store.process().write({key: b"mine"})
    rechunk(process, path)
    assert store.contents()[key] == b"mine"
    assert np.array_equal(array_of(store, path)[...], DATA)


def test_in_a_transaction_it_is_refused():
    _, process = prepare()
    array = process.array("g/x")
    with pytest.raises(zarrvec.errors.TransactionError, match="call it outside"), zarrvec.transaction(array):
        zarrvec.rechunk(array, chunks=(5, 10))


def test_chunks_that_are_not_stored_are_not_read():
    store = Store()
    first = store.process()
    array = zarr.create_array(first.store, name="x", shape=(100, 1000), chunks=(10, 1000), dtype="i4")
    array[50:60] = 3
    process = store.process()
    done = rechunk(process, "x", chunks=(100, 100), memory_bytes=1 << 18)
    assert done.blocks > 1
    assert np.array_equal(array_of(store, "x")[40:70], np.pad(np.full((10, 1000), 3), ((10, 10), (0, 0))))
    array_of(store, "x")[...] = 0
    done = rechunk(store.process(), "x", chunks=(10, 1000), memory_bytes=1 << 18)
    assert done.blocks == 0
    assert run_sync(store.process().repository.is_empty("x.rechunk"))
