"""Requests, bytes and waves of reads and writes of shards, beside those of zarr's own codec; as `specs/codecs/shard.md` says."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import zarr
from obstore.store import S3Store
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

from zarrvec.codecs.shard_cache import INDEXES, SECONDS_OPTION

OURS = "zarrvec.codecs.shard.ShardingCodec"
ZARR = "zarr.codecs.sharding.ShardingCodec"
NEW = not zarr.__version__.startswith("3.1.")
INNER = 4096  # bytes of an inner chunk; 300 of them in a shard
INDEX = 16 * 300 + 4


class Counting(WrapperStore[Any]):
    """A store that notes what it is asked for, and answers each wave of requests together."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.log: list[tuple[str, int]] = []
        self.waves = 0
        self._wave: asyncio.Future[None] | None = None

    async def _together(self) -> None:
        if self._wave is None:
            self.waves += 1
            self._wave = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().create_task(self._answer(self._wave))
        await self._wave

    async def _answer(self, wave: "asyncio.Future[None]") -> None:
        await asyncio.sleep(0.005)  # whoever is ready to ask has asked
        self._wave = None
        wave.set_result(None)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        await self._together()
        value = await super().get(key, prototype, byte_range)
        kind = {RangeByteRequest: "range", SuffixByteRequest: "index", OffsetByteRequest: "offset"}
        self.log.append((kind.get(type(byte_range), "whole"), 0 if value is None else len(value)))
        return value

    async def get_ranges(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        # the wrapped store's would not be counted
        async for group in Store.get_ranges(self, *args, **kwargs):  # type: ignore[attr-defined, unused-ignore]
            yield group

    async def set(self, key: str, value: Any) -> None:
        await self._together()
        self.log.append(("set", len(value)))
        await super().set(key, value)

    async def delete(self, key: str) -> None:
        self.log.append(("delete", 0))
        await super().delete(key)


@pytest.fixture(scope="module")
def memory():
    """10 shards of 300 inner chunks of 4 KiB, uncompressed."""
    store = MemoryStore()
    data = np.random.default_rng(0).integers(0, 1 << 62, 3000 * INNER // 8)
    zarr.create_array(
        store,
        shape=data.shape,
        dtype=data.dtype,
        chunks=(INNER // 8,),
        shards=(300 * INNER // 8,),
        compressors=None,
    )
    with zarr.config.set({"codecs.sharding_indexed": OURS}):
        zarr.open_array(store, mode="r+")[:] = data
    return store


@pytest.fixture
def count(memory):
    """Run something on the array through a codec; return requests by kind, bytes and waves."""
    INDEXES.clear()

    def run(codec, operate, **config):
        with zarr.config.set({"codecs.sharding_indexed": codec, **config}):
            store = Counting(memory)
            array = zarr.open_array(store, mode="r+")
            store.log.clear()
            store.waves = 0
            operate(array)
        kinds = [kind for kind, _ in store.log]
        read = sum(size for kind, size in store.log if kind != "set")
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}, read, store.waves

    return run


def test_one_inner_chunk(count):
    expected = {"index": 1, "range": 1}, INDEX + INNER, 2
    assert count(OURS, lambda array: array[5000]) == expected
    assert count(ZARR, lambda array: array[5000]) == expected


def test_200_neighbours(count):
    def read(array):
        return array[50 * 512 : 250 * 512]

    requests, size, waves = count(OURS, read)
    assert (requests, size, waves) == ({"index": 1, "range": 1}, INDEX + 200 * INNER, 2)
    assert count(ZARR, read) == (
        (requests, size, waves) if NEW else ({"index": 1, "range": 200}, INDEX + 200 * INNER, 201)
    )


def test_scattered_over_ten_shards(count):
    rows = np.arange(50, 3000, 100) * 512  # 3 inner chunks of each shard, 400 KiB apart

    def read(array):
        return array.oindex[rows]

    requests, size, waves = count(OURS, read)
    theirs = count(ZARR, read)
    assert waves == 2
    assert requests["index"] == 10
    if NEW:  # both fill gaps of up to 1 MiB, as the array is configured
        assert (requests, size) == ({"index": 10, "range": 10}, 10 * (INDEX + 201 * INNER))
        assert theirs == (requests, size, waves)
    else:
        assert (requests, size) == ({"index": 10, "range": 30}, 10 * INDEX + 30 * INNER)
        assert theirs[:2] == (requests, size)
        assert theirs[2] == 4  # one inner chunk of a shard after the other


def test_whole_shards_are_read_at_once(count):
    for codec in (OURS, ZARR):
        two = count(codec, lambda array: array[: 600 * 512])
        assert two == ({"whole": 2}, 2 * (300 * INNER + INDEX), 1)


def test_a_whole_shard_is_written_without_reading(count):
    def write(array):
        array[: 600 * 512] = array_of(600)

    assert count(OURS, write)[:2] == ({"set": 2}, 0)
    theirs = count(ZARR, write)[:2]
    assert theirs == (({"set": 2}, 0) if NEW else ({"set": 2, "whole": 2}, 2 * (300 * INNER + INDEX)))


def test_a_part_of_a_shard_is_one_read_and_one_write(count):
    def write(array):
        array[5 * 512 : 6 * 512] = 7

    for codec in (OURS, ZARR):
        assert count(codec, write) == ({"set": 1, "whole": 1}, 300 * INNER + INDEX, 2)


def test_an_index_that_is_believed_is_read_once(count):
    def read(array):
        for row in range(0, 50_000, 5000):
            assert array[row] == array[row : row + 1][0]
        array[3] = 4
        assert (array[3], array[200_000]) == (4, array[200_000])

    ours, _, _ = count(OURS, read, **{SECONDS_OPTION: 60})
    # the shard that was written has its index read again, the next one once
    assert ours == {"index": 3, "range": 23, "set": 1, "whole": 1}
    INDEXES.clear()
    unless_asked, _, _ = count(OURS, read)
    assert unless_asked == {"index": 23, "range": 23, "set": 1, "whole": 1}


def array_of(chunks):
    return np.arange(chunks * 512)


@pytest.mark.parametrize("kind", ["obstore", "local"])
def test_what_the_storage_vouches_for_is_kept_and_never_stale(kind, tmp_path, proxied_bucket, s3_proxy):
    """Indexes are kept with no option set, and another writer is seen at once."""
    if kind == "obstore":
        theirs: Any = ObjectStore(S3Store(**proxied_bucket.obstore_options))
        store: Any = ObjectStore(S3Store(**proxied_bucket.obstore_options))
    else:
        theirs, store = LocalStore(tmp_path), LocalStore(tmp_path)
    zarr.create_array(theirs, data=array_of(200), chunks=(512,), shards=(100 * 512,), compressors=None)
    if kind == "local":
        time.sleep(2.1)  # a file that has just been written may be written again with the same times
    with zarr.config.set({"codecs.sharding_indexed": OURS}):
        array = zarr.open_array(store, mode="r")
    other = zarr.open_array(theirs, mode="r+")
    INDEXES.clear()
    with s3_proxy.counting() as first:
        assert array[600] == 600
    held = INDEXES.bytes_held
    with s3_proxy.counting() as second:
        assert array[700:1500].tolist() == list(range(700, 1500))
    assert held == INDEXES.bytes_held > 0
    other[:600] = 0  # one inner chunk is no longer there, so all others have moved
    with s3_proxy.counting() as third:
        assert array[700:1500].tolist() == list(range(700, 1500))
        assert array[599:601].tolist() == [0, 600]
    if kind == "obstore":
        assert [first.total_requests, second.total_requests] == [2, 1]
        assert third.total_requests == 4  # refused, index, data; data
