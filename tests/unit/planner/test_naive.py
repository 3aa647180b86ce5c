import numpy as np
import pytest
import zarr
from dask.array.core import normalize_chunks

from zarrvec.planner.naive import dask_chunks, zarr_chunks

SHAPES = [
    ((500, 200, 3, 224, 224), "u1"),
    ((1_000_000, 384), "f4"),
    ((10,), "f8"),
    ((8760, 721, 1440), "f4"),
    ((3, 100_000_000), "u1"),
    ((1 << 31, 2, 5), "i2"),
    ((123_457,), "f8"),
    ((1, 1, 10**9), "f8"),
]


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_dask(shape, dtype):
    blocks = normalize_chunks("auto", shape=shape, dtype=np.dtype(dtype), limit="128MiB")
    assert dask_chunks(shape, np.dtype(dtype)) == tuple(along[0] for along in blocks)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_zarr(shape, dtype):
    array = zarr.create_array({}, shape=shape, dtype=dtype)
    assert zarr_chunks(shape, np.dtype(dtype)) == array.chunks
