"""Is the origin among the rows, whatever they are?"""

import numpy as np
import pytest
import zarr

from zarrvec.search.origin import find_origin, middle_of


def test_the_middle_is_near_the_mean():
    rows = np.random.default_rng(0).normal(size=(900, 5)) * [1, 10, 100, 0, 1e-6] + [0, 1e4, -1e9, 7, 1e-3]
    np.testing.assert_allclose(middle_of(rows), rows.mean(axis=0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outlier", [1e6, 1e12, 1e17, 1e30, np.inf, np.nan])
def test_rows_far_from_most_do_not_move_it(outlier):
    rows = np.random.default_rng(0).normal(size=(100, 4))
    rows[[3, 50, 51], 1] = outlier
    assert np.abs(middle_of(rows)).max() < 1


def test_rows_that_are_mostly_one():
    rows = np.zeros((100, 3), "f4")
    rows[::9] = 1
    assert middle_of(rows).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [np.full((5, 3), np.nan), np.full((5, 3), 1e300), np.empty((0, 3))])
def test_no_usable_row(rows):
    assert middle_of(rows).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["i1", "u1", "f2", "f4", "f8"])
@pytest.mark.parametrize("leading", [(1,), (7,), (3000,), (9, 40), (3, 2, 5)])
@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
def test_of_an_array(dtype, leading, memory_bytes):
    data = np.random.default_rng(0).integers(50, 60, (*leading, 4)).astype(dtype)
    array = zarr.create_array({}, data=data, chunks=tuple(min(8, length) for length in data.shape))
    origin = find_origin(array, memory_bytes)
    assert origin.dtype == np.float32
    assert ((origin >= 50) & (origin < 60)).all()
