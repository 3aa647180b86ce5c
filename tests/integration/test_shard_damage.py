"""Damaged shards: typed errors that are also zarr's, other inner chunks stay readable, memory stays bounded."""

import tracemalloc

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore as ObjectMemory
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

from zarrvec.codecs.shard_index import EMPTY
from zarrvec.errors import CorruptError, CorruptShardError

OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}
CHUNKS = 8
INDEX = 16 * CHUNKS + 4


@pytest.fixture(params=["memory", "local", "obstore", "fsspec"])
def store(request, tmp_path):
    match request.param:
        case "memory":
            return MemoryStore()
        case "local":
            return LocalStore(tmp_path)
        case "obstore":
            return ObjectStore(ObjectMemory())
    return FsspecStore.from_url(f"file://{tmp_path}", storage_options={"auto_mkdir": True})


def create(store, location="end"):
    """One shard of 8 inner chunks of 10 numbers of 4 bytes, none compressed."""
    codec = zarr.codecs.ShardingCodec(chunk_shape=(10,), index_location=location)
    zarr.create_array(
        store, shape=80, dtype="i4", chunks=(80,), serializer=codec, filters=None, compressors=None
    )[:] = np.arange(80)
    with zarr.config.set(OURS):
        return zarr.open_array(store, mode="r+")


def shard_of(store):
    return bytearray(sync(store.get("c/0", default_buffer_prototype())).to_bytes())


def put(store, data):
    sync(store.set("c/0", default_buffer_prototype().buffer.from_bytes(bytes(data))))


def put_entry(store, chunk, start, length, location="end"):
    """Write an index entry, and the checksum that belongs to it."""
    data = shard_of(store)
    at = 0 if location == "start" else len(data) - INDEX
    entries = np.frombuffer(bytes(data[at : at + INDEX - 4]), "<u8").reshape(CHUNKS, 2).copy()
    entries[chunk] = start, length
    raw = entries.tobytes()
    data[at : at + INDEX] = raw + google_crc32c.value(raw).to_bytes(4, "little")
    put(store, data)


@pytest.mark.parametrize("location", ["end", "start"])
def test_a_flipped_bit_in_the_index(store, location):
    array = create(store, location)
    data = shard_of(store)
    data[5 if location == "start" else -5] ^= 1
    put(store, data)
    for read in (lambda: array[3], lambda: array[:], lambda: array.set_basic_selection(3, 1)):
        with pytest.raises(CorruptShardError, match=r"c/0: its index can't be decoded: .*checksum"):
            read()
    assert shard_of(store) == data  # a write that can't keep the other inner chunks changes nothing
    array[:] = 5  # one that needs none of them mends it
    assert set(array[:]) == {5}


@pytest.mark.parametrize("length", [0, 1, INDEX - 1])
@pytest.mark.parametrize("location", ["end", "start"])
def test_a_shard_shorter_than_its_index(store, location, length):
    array = create(store, location)
    put(store, shard_of(store)[:length])
    for read in (lambda: array[3], lambda: array[:], lambda: array.set_basic_selection(3, 1)):
        with pytest.raises(ValueError, match="truncated"):
            read()


def test_a_shard_cut_short_of_data(store):
    array = create(store, "start")
    put(store, shard_of(store)[: INDEX + 3 * 40 + 7])
    assert array[10:30].tolist() == list(range(10, 30))  # what is whole can be read
    for read in (
        lambda: array[35],
        lambda: array[25:35],
        lambda: array[:],
        lambda: array.set_basic_selection(3, 1),
    ):
        with pytest.raises(CorruptError, match=r"places inner chunk .* but the shard has"):
            read()


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1 << 40), (1 << 40, 40), (0, (1 << 63) - 1), (1 << 63, 40), (EMPTY - 1, 40), (EMPTY, 40), (40, EMPTY), (20, EMPTY - 10),
        (80 * 4 + INDEX - 3, 40),
    ],
)  # fmt: skip
def test_entries_out_of_range_cost_no_memory(store, start, length):
    array = create(store)
    put_entry(store, 2, start, length)
    tracemalloc.start()
    try:
        for read in (
            lambda: array[25],
            lambda: array[15:25],
            lambda: array[:],
            lambda: array.set_basic_selection(3, 1),
        ):
            with pytest.raises(CorruptShardError, match=r"places inner chunk \(2,\)"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert array[40:60].tolist() == list(range(40, 60))


def test_entries_that_overlap_are_read_once():
    store = MemoryStore()
    array = create(store)
    put_entry(store, 1, 0, 40)  # two inner chunks may share bytes
    assert array[0:20].tolist() == 2 * list(range(10))
    put_entry(store, 1, 4, 40)
    assert array[10:20].tolist() == list(range(1, 11))


def test_an_inner_chunk_of_no_bytes_is_refused_by_its_codec(store):
    array = create(store)
    put_entry(store, 1, 40, 0)
    with pytest.raises(ValueError, match="reshape"):
        array[15]
    assert array[25:35].tolist() == list(range(25, 35))


def test_damage_to_an_inner_chunk_is_the_inner_codecs_to_find():
    store = MemoryStore()
    zarr.create_array(
        store,
        data=np.arange(80),
        chunks=(10,),
        shards=(80,),
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
    )
    with zarr.config.set(OURS):
        array = zarr.open_array(store, mode="r")
    data = shard_of(store)
    data[3] ^= 1
    put(store, data)
    with pytest.raises(ValueError, match="checksum"):
        array[1]
    assert array[10:].tolist() == list(range(10, 80))


@settings(max_examples=25)
@given(data=st.data())
def test_any_bytes(data):
    """Whatever stands there, reading ends in values or in an error that `except ValueError` catches."""
    store = MemoryStore()
    array = create(store, data.draw(st.sampled_from(["start", "end"])))
    raw = shard_of(store)
    match data.draw(st.sampled_from(["cut", "random", "entries"])):
        case "cut":
            raw = raw[: data.draw(st.integers(0, len(raw)))]
        case "random":
            raw = bytearray(data.draw(st.binary(max_size=300)))
        case "entries":
            number = st.integers(0, 500) | st.sampled_from([EMPTY, EMPTY - 1, 1 << 62])
            values = data.draw(st.lists(number, min_size=16, max_size=16))
            index = np.array(values, "<u8").tobytes()
            index += google_crc32c.value(index).to_bytes(4, "little")
            raw = bytearray(
                index + bytes(300) if array.metadata.codecs[0]._index_is_first else bytes(300) + index
            )
    put(store, raw)
    chosen = data.draw(st.slices(80).filter(lambda part: part.step is None or part.step > 0))
    for read in (lambda: array[chosen], lambda: array[:]):
        try:
            assert read().shape
        except ValueError as error:
            assert str(error)  # noqa: PT017
