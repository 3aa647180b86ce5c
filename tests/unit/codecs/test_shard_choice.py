"""Which of two implementations of `sharding_indexed` does zarr take?"""

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from zarrvec.codecs.shard import ShardingCodec

OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}


@pytest.fixture
def store():
    store = MemoryStore()
    zarr.create_array(store, data=np.arange(80), chunks=(10,), shards=(80,))
    return store


def codec_of(store):
    return type(zarr.open_array(store).metadata.codecs[0])


def test_the_configuration_alone_chooses(store, recwarn):
    assert codec_of(store) is zarr.codecs.ShardingCodec
    with zarr.config.set(OURS):
        assert codec_of(store) is ShardingCodec
    assert codec_of(store) is zarr.codecs.ShardingCodec
    assert not recwarn.list


def test_zarr_warns_only_if_the_choice_is_taken_away(store):
    with (
        zarr.config.set({"codecs.sharding_indexed": None}),
        pytest.warns(ZarrUserWarning, match="not configured"),
    ):
        codec_of(store)


def test_nothing_need_be_imported_and_nothing_is_without_shards():
    code = (
        "import sys, numpy, zarr; store = zarr.storage.MemoryStore()\n"
        "zarr.create_array(store, data=numpy.arange(80)); zarr.open_array(store); print('zarrvec.codecs.shard' in sys.modules)\n"
        f"zarr.config.set({OURS!r})\n"
        "zarr.create_array(store, data=numpy.arange(80), chunks=(10,), shards=(80,), overwrite=True)\n"
        "print(type(zarr.open_array(store).metadata.codecs[0]).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "zarrvec.codecs.shard"]


def test_an_instance_may_be_given():
    store = MemoryStore()
    codec = ShardingCodec(chunk_shape=(10,), index_location="start")
    array = zarr.create_array(
        store, shape=80, dtype="i4", chunks=(80,), serializer=codec, filters=None, compressors=None
    )
    assert type(array.metadata.codecs[0]) is ShardingCodec
    array[5] = 1
    assert zarr.open_array(store)[4:7].tolist() == [0, 1, 0]
    (written,) = json.loads(store._store_dict["zarr.json"].to_bytes())["codecs"]
    assert written["name"] == "sharding_indexed"


def test_shards_within_shards_are_ours_outside_and_as_configured_inside():
    inner = zarr.codecs.ShardingCodec(chunk_shape=(5,))
    store = MemoryStore()
    zarr.create_array(
        store,
        shape=80,
        dtype="i4",
        chunks=(40,),
        serializer=zarr.codecs.ShardingCodec(chunk_shape=(10,), codecs=[inner]),
        filters=None,
        compressors=None,
    )
    with zarr.config.set(OURS):
        array = zarr.open_array(store, mode="r+")
    assert type(array.metadata.codecs[0].codecs[0]) is ShardingCodec
    array[7:62] = np.arange(7, 62)
    assert array[3:70].tolist() == [0] * 4 + list(range(7, 62)) + [0] * 8
    assert zarr.open_array(store)[3:70].tolist() == array[3:70].tolist()
