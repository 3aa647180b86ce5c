"""Writers of one shard in one process take turns; readers see what was before or after; a write by others is noticed."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

from zarrvec.codecs.shard_cache import INDEXES, SECONDS_OPTION
from zarrvec.codecs.shard_guard import guard_of, name_of_store

OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
PIPELINES = ["zarr.core.codec_pipeline.BatchedCodecPipeline"]
if not zarr.__version__.startswith("3.1."):
    PIPELINES.append(FUSED)
CHUNKS = 40


def create(store, values=0, shards=400, **arguments):
    data = np.full(CHUNKS * 10, values, "i4")
    zarr.create_array(store, data=data, chunks=(10,), shards=(shards,), fill_value=-1, **arguments)


def open_ours(store, pipeline=PIPELINES[0]):
    with zarr.config.set({**OURS, "codec_pipeline.path": pipeline}):
        return zarr.open_array(store, mode="r+")


@pytest.mark.parametrize(
    ("kind", "pipeline"),
    # that one gives parts of shards to the codec only where the store is synchronous
    [
        (kind, pipeline)
        for kind in ("memory", "local", "fsspec")
        for pipeline in PIPELINES
        if (kind, pipeline) != ("fsspec", FUSED)
    ],
)
def test_threads_that_write_parts_of_one_shard_lose_nothing(kind, pipeline, tmp_path):
    def store():
        if kind == "local":
            return LocalStore(tmp_path)
        return FsspecStore.from_url(f"file://{tmp_path}", storage_options={"auto_mkdir": True})

    shared = MemoryStore() if kind == "memory" else store()
    create(shared)
    handles = [open_ours(shared if kind == "memory" else store(), pipeline) for _ in range(4)]

    def write(part):
        array = handles[part % 4]  # opened separately, of one place
        array[part * 5 : part * 5 + 5] = part + 1  # half an inner chunk

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(2 * CHUNKS)))
    assert handles[0][:].tolist() == np.repeat(np.arange(1, 2 * CHUNKS + 1), 5).tolist()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_somebody_writes_waits_for_nobody(tmp_path):
    store = LocalStore(tmp_path)
    create(store)
    array = open_ours(store)
    with guard_of((name_of_store(store), "c/0")).turn_sync():
        pid = os.fork()
        if pid == 0:
            try:
                array[5] = 3
                os._exit(0 if array[4:6].tolist() == [0, 3] else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert array[4:6].tolist() == [0, 3]


def test_tasks_and_threads_take_turns_too():
    store = MemoryStore()
    create(store)
    array = open_ours(store)

    async def write_tasks():
        whole = array.async_array
        await asyncio.gather(
            *(whole.setitem(slice(part * 5, part * 5 + 5), part + 1) for part in range(CHUNKS))
        )

    def write_thread():
        for part in range(CHUNKS, 2 * CHUNKS):
            array[part * 5 : part * 5 + 5] = part + 1

    thread = threading.Thread(target=write_thread)
    thread.start()
    asyncio.run(write_tasks())
    thread.join()
    assert array[:].tolist() == np.repeat(np.arange(1, 2 * CHUNKS + 1), 5).tolist()


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_readers_see_the_shard_before_or_after_a_write(kind, tmp_path):
    store = MemoryStore() if kind == "memory" else LocalStore(tmp_path)
    create(store, 1)
    array = open_ours(store)
    with zarr.config.set({"array.write_empty_chunks": False}):
        writer = open_ours(store)
    done = threading.Event()

    def write():
        for turn in range(60):
            writer[: 10 * (turn % 30)] = -1  # inner chunks come and go, so all others move
            writer[: 10 * (turn % 30)] = 1
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert array[300:390].tolist() == [1] * 90
    thread.join()


class Meddled(WrapperStore[Any]):
    """A store on which another process writes a shard right after its index was read."""

    meddle: Any = None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        if byte_range is not None and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            await meddle()
        return value


@pytest.mark.parametrize("values", ["longer", "shorter", "gone"])
def test_a_shard_that_others_write_between_index_and_data_is_read_again(values):
    memory = MemoryStore()
    noise = np.random.default_rng(0).integers(0, 1 << 30, 400)
    create(memory)
    other = zarr.open_array(memory, mode="r+")
    if values == "shorter":
        other[:] = noise
    store = Meddled(memory)
    array = open_ours(store)

    async def meddle():
        if values == "gone":
            await other.async_array.store_path.store.delete("c/0")
        else:
            await other.async_array.setitem(slice(None), noise if values == "longer" else 5)

    store.meddle = meddle
    expected = {"longer": noise[100:390].tolist(), "shorter": [5] * 290, "gone": [-1] * 290}[values]
    assert array[100:390].tolist() == expected
    assert store.meddle is None


def test_an_index_believed_too_long_is_read_again_when_it_shows(tmp_path):
    create(LocalStore(tmp_path))
    store = FsspecStore.from_url(f"file://{tmp_path}")
    array = open_ours(store)
    with zarr.config.set({SECONDS_OPTION: 1000}):
        assert array[395] == 0
        noise = np.random.default_rng(0).integers(0, 1 << 30, 400)
        zarr.open_array(LocalStore(tmp_path), mode="r+")[:] = noise
        assert array[395] == noise[395]
        array[395] = 3  # own writes are seen in any case
        assert array[394:396].tolist() == [noise[394], 3]


def test_a_shard_of_another_shape_in_the_same_place(tmp_path):
    store = FsspecStore.from_url(f"file://{tmp_path}", storage_options={"auto_mkdir": True})
    with zarr.config.set({SECONDS_OPTION: 1000}):
        for shards in (400, 200):
            create(store, shards, shards=shards, overwrite=True)
            assert open_ours(store)[395] == shards
    INDEXES.clear()
