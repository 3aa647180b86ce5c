"""Any sequence of writes and reads through our sharding codec equals numpy, and leaves the bytes that zarr's own leaves."""

import itertools

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

OLD = zarr.__version__.startswith("3.1.")
OURS = {"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}


@st.composite
def layouts(draw):
    """Shape of an array, its shards and its inner chunks, and how they are stored."""
    dims = draw(st.integers(1, 3))
    inner = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    shard = tuple(size * draw(st.integers(1, 3)) for size in inner)
    shape = tuple(draw(st.integers(1, 2 * size + 1)) for size in shard)
    codecs = draw(st.sampled_from([[BytesCodec()], [BytesCodec(), ZstdCodec(level=1)]]))
    if draw(st.booleans()) and dims < 3:  # shards within shards
        codecs = [ShardingCodec(chunk_shape=(1,) * dims, codecs=codecs)]
    codec = ShardingCodec(
        chunk_shape=inner, codecs=codecs, index_location=draw(st.sampled_from(["start", "end"]))
    )
    return shape, shard, codec, draw(st.sampled_from([0, 7])), draw(st.booleans())


def selections(shape):
    """A selection and the accessor that takes it."""
    basic = st.tuples(
        *(
            st.slices(size).filter(lambda part: part.step is None or part.step > 0) | st.integers(0, size - 1)
            for size in shape
        )
    )
    axes = [
        st.lists(st.integers(0, size - 1), min_size=1, max_size=4, unique=True).map(sorted) for size in shape
    ]
    orthogonal = st.tuples(*axes)
    points = st.lists(
        st.tuples(*(st.integers(0, size - 1) for size in shape)), min_size=1, max_size=5, unique=True
    )
    return (
        st.tuples(st.just("basic"), basic)
        | st.tuples(st.just("orthogonal"), orthogonal)
        | st.tuples(st.just("points"), points)
    )


def select(array, how, what):
    """The same selection of an array of zarr's and of numpy's."""
    if how == "points":
        return (array.vindex if hasattr(array, "vindex") else array), tuple(np.array(what).T)
    if how == "orthogonal":
        return (array.oindex, what) if hasattr(array, "oindex") else (array, np.ix_(*what))
    return array, what


@pytest.mark.parametrize("store", ["memory", "local"])
@settings(max_examples=10)
@given(data=st.data())
def test_as_numpy_and_as_zarr(store, tmp_path_factory, data):
    shape, shard, codec, fill_value, write_empty = data.draw(layouts())
    stores = {
        name: MemoryStore() if store == "memory" else LocalStore(tmp_path_factory.mktemp("shards"))
        for name in ("ours", "zarr")
    }
    arrays = {}
    for name, place in stores.items():
        zarr.create_array(
            place, shape=shape, dtype="i2", chunks=shard, serializer=codec, filters=None, compressors=None,
            fill_value=fill_value,
        )  # fmt: skip
        with zarr.config.set({**(OURS if name == "ours" else {}), "array.write_empty_chunks": write_empty}):
            arrays[name] = zarr.open_array(place, mode="r+")
    assert type(arrays["ours"].metadata.codecs[0]).__module__ == "zarrvec.codecs.shard"
    model = np.full(shape, fill_value, "i2")

    for _ in range(data.draw(st.integers(1, 6))):
        how, what = data.draw(selections(shape))
        where, index = select(model, how, what)
        if data.draw(st.booleans()):
            shape_written = where[index].shape
            number = data.draw(st.sampled_from([fill_value, 1, -5]))
            value = (
                number
                if data.draw(st.booleans())
                else np.full(shape_written, number, "i2")
                + np.arange(np.prod(shape_written, dtype=int)).reshape(shape_written).astype("i2") % 3
            )
            where[index] = value
            target, key = select(arrays["ours"], how, what)
            target[key] = value
            if (
                how == "orthogonal" and OLD
            ):  # zarr 3.1 fails to write these to shards, so it gets them as points
                how, what = "points", list(itertools.product(*what))
                value = np.broadcast_to(value, shape_written).reshape(-1)
            target, key = select(arrays["zarr"], how, what)
            target[key] = value
        else:
            target, key = select(arrays["ours"], how, what)
            assert np.array_equal(target[key], where[index])
    for array in arrays.values():
        assert np.array_equal(array[...], model)
    assert contents(stores["ours"]) == contents(stores["zarr"])
    assert np.array_equal(zarr.open_array(stores["ours"], mode="r")[...], model)


def contents(store):
    if isinstance(store, MemoryStore):
        return {key: value.to_bytes() for key, value in store._store_dict.items()}
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in store.root.rglob("*")
        if path.is_file()
    }
