"""Index and data are of one state of a shard, or the source says so."""

import asyncio
import os
import pickle
import threading

import numpy as np
import obstore
import pytest
import zarr
from obstore.store import LocalStore as ObjectFiles
from obstore.store import MemoryStore as ObjectMemory
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore

from zarrvec.codecs.shard_cache import INDEXES
from zarrvec.codecs.shard_index import Span
from zarrvec.codecs.shard_sources import FileSource, ObjectSource, ShardChangedError, StoreSource, source_of

OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}
PROTOTYPE = default_buffer_prototype()


def buffers(parts):
    return [part.to_bytes() for part in parts]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "s").write_bytes(b"0123456789")
    source = FileSource(str(tmp_path / "s"), PROTOTYPE)
    yield tmp_path / "s", source
    source.close()


async def test_a_file_that_is_replaced_is_read_on_in_its_old_state(file):
    path, source = file
    index = await source.read_index(4, at_start=False)
    assert (index.data.to_bytes(), index.size_bytes) == (b"6789", 10)
    path.with_name("new").write_bytes(b"x" * 20)
    path.with_name("new").replace(path)
    assert buffers(await source.read_spans([Span(0, 3), Span(8, 9)], index.version)) == [b"012", b"89"]
    source.close()  # the next operation has the old index from memory
    with pytest.raises(ShardChangedError):
        await source.read_spans([Span(0, 3)], index.version)


async def test_a_file_that_is_written_into_is_noticed(file):
    path, source = file
    index = await source.read_index(4, at_start=True)
    assert index.data.to_bytes() == b"0123"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ShardChangedError):
        await source.read_spans([Span(0, 3)], index.version)


async def test_a_read_that_is_given_up_ends_before_its_file_is_closed(file, monkeypatch):
    _, source = file
    reading, going_on = threading.Event(), threading.Event()
    pread = os.pread

    def slow(*arguments):
        reading.set()
        going_on.wait(10)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", slow)
    task = asyncio.create_task(source.read_index(4, at_start=True))
    await asyncio.to_thread(reading.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, going_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert going_on.is_set()
    source.close()


async def test_a_file_that_is_not_there(tmp_path):
    source = FileSource(str(tmp_path / "s"), PROTOTYPE)
    assert await source.read_index(4, at_start=True) is None
    assert await source.read_spans([Span(0, 1)], None) is None
    assert await source.size_bytes() is None


def test_a_file_that_is_young_is_asked_again(tmp_path):
    INDEXES.clear()
    zarr.create_array(LocalStore(tmp_path), data=np.arange(80), chunks=(10,), shards=(80,))
    with zarr.config.set(OURS):
        array = zarr.open_array(LocalStore(tmp_path), mode="r")
    assert array[5] == 5
    assert INDEXES.bytes_held == 0


@pytest.mark.parametrize("at_start", [True, False])
async def test_an_object_that_changed_is_refused(at_start):
    store = ObjectMemory()
    await obstore.put_async(store, "s", b"0123456789")
    source = ObjectSource(store, "s", PROTOTYPE)
    index = await source.read_index(4, at_start=at_start)
    assert index.data.to_bytes() == (b"0123" if at_start else b"6789")
    assert index.keep
    assert buffers(await source.read_spans([Span(0, 3), Span(8, 2)], index.version)) == [b"012", b"89"]
    await obstore.put_async(store, "s", b"9876543210")
    with pytest.raises(ShardChangedError):
        await source.read_spans([Span(0, 3)], index.version)
    await obstore.delete_async(store, "s")
    assert await source.read_spans([Span(0, 3)], None) is None
    assert await source.read_index(4, at_start=at_start) is None
    assert await source.size_bytes() is None


async def test_storage_that_ignores_conditions_is_caught_by_its_tags(monkeypatch):
    get = obstore.get_async

    async def unconditional(store, path, *, options):
        return await get(store, path, options={"range": options["range"]})

    monkeypatch.setattr(obstore, "get_async", unconditional)
    store = ObjectMemory()
    await obstore.put_async(store, "s", b"0123456789")
    source = ObjectSource(store, "s", PROTOTYPE)
    index = await source.read_index(4, at_start=False)
    await obstore.put_async(store, "s", b"9876543210")
    with pytest.raises(ShardChangedError):
        await source.read_spans([Span(0, 3)], index.version)


async def test_young_files_of_obstore_are_not_kept(tmp_path):
    (tmp_path / "s").write_bytes(b"0123456789")
    source = ObjectSource(ObjectFiles(tmp_path), "s", PROTOTYPE)
    index = await source.read_index(4, at_start=False)
    assert not index.keep
    os.utime(tmp_path / "s", (1e9, 1e9))
    assert (await source.read_index(4, at_start=False)).keep


def test_which_source(tmp_path):
    class Mine(LocalStore):
        pass

    kinds = {
        FileSource: [LocalStore(tmp_path)],
        ObjectSource: [ObjectStore(ObjectMemory())],
        StoreSource: [
            MemoryStore(), Mine(tmp_path), WrapperStore(LocalStore(tmp_path)), FsspecStore.from_url(f"file://{tmp_path}"),
        ],
    }  # fmt: skip
    for kind, stores in kinds.items():
        assert [type(source_of(StorePath(store, "s"), PROTOTYPE)) for store in stores] == [kind] * len(stores)


def test_arrays_are_pickled_with_the_codec_they_have(tmp_path):
    zarr.create_array(LocalStore(tmp_path), data=np.arange(80), chunks=(10,), shards=(80,))
    with zarr.config.set(OURS):
        array = zarr.open_array(LocalStore(tmp_path), mode="r+")
    copy = pickle.loads(pickle.dumps(array))
    assert type(copy.metadata.codecs[0]).__module__ == "zarrvec.codecs.shard"
    copy[3] = 7
    assert array[2:5].tolist() == [2, 7, 4]
