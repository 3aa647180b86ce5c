"""Which chunks would zarr and dask choose by themselves?

Source: zarr's ``chunks="auto"`` itself, and dask's ``dask.array.core.auto_chunks`` (dask 2026.1) for all axes ``"auto"``.
"""

import warnings
from typing import Any, Final

import numpy as np

DASK_BYTES: Final = 128 << 20
"""dask's ``array.chunk-size``."""


def zarr_chunks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return zarr's automatic chunks; zarr itself is asked.

    Examples
    --------
    >>> zarr_chunks((100, 4), np.dtype("f4"))
    (100, 4)
    """
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says of some dtypes that they are in no specification yet
        array = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, dtype=dtype, chunks="auto")
    return tuple(int(chunk) for chunk in array.chunks)


def dask_chunks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return dask's automatic chunks.

    Examples
    --------
    >>> dask_chunks((500, 200, 3, 224, 224), np.dtype("u1"))
    (81, 81, 3, 81, 81)
    """
    limit = DASK_BYTES / dtype.itemsize
    chunks: dict[int, int] = {}
    autos = set(range(len(shape)))
    largest = 1
    while autos:
        size = (limit / largest) ** (1 / len(autos))
        small = [axis for axis in autos if shape[axis] < size]
        if not small:
            chunks.update({axis: max(1, int(size)) for axis in autos})
            break
        for axis in small:
            chunks[axis] = shape[axis]
            largest *= shape[axis]
            autos.discard(axis)
    return tuple(chunks[axis] for axis in range(len(shape)))
