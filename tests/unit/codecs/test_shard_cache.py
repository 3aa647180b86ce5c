import numpy as np
import pytest
import zarr

from zarrvec.codecs.shard_cache import BYTES_OPTION, SECONDS_OPTION, IndexCache
from zarrvec.codecs.shard_index import ShardIndex
from zarrvec.errors import OptionError


def index(version=None, chunks=1):
    return ShardIndex(name="x", entries=np.zeros((chunks, 2), "u8"), version=version)


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def cache(clock):
    return IndexCache(lambda: clock[0])


def test_only_what_the_storage_vouches_for_is_kept_unless_asked(cache, clock):
    cache.put("a", index())
    cache.put("b", index("tag"))
    clock[0] = 1e9
    assert cache.get("a") is None
    assert cache.get("b").version == "tag"


def test_seconds(cache, clock):
    with zarr.config.set({SECONDS_OPTION: 5}):
        cache.put("a", index())
        clock[0] = 4.9
        assert cache.get("a") is not None
        clock[0] = 5.0
        assert cache.get("a") is None
        assert cache.bytes_held == 0
        cache.put("a", index())
    assert cache.get("a") is None  # the option is asked at every use


def test_bytes(cache):
    with zarr.config.set({BYTES_OPTION: 10_000}):
        for name in "abcd":
            cache.put(name, index("tag", 150))
            cache.get("a")
        assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
        assert cache.bytes_held <= 10_000
        cache.put("e", index("tag", 10_000))
        assert cache.get("e") is None
        cache.put("a", index("other", 1))
        cache.drop("a")
        cache.drop("a")
        cache.clear()
        assert cache.bytes_held == 0


@pytest.mark.parametrize("value", [-1, "5", None, True, float("nan")])
def test_options_are_numbers(cache, value):
    with (
        zarr.config.set({SECONDS_OPTION: value}),
        pytest.raises(OptionError, match=r"zarrvec\.shard\.index_seconds"),
    ):
        cache.put("a", index())
