"""Are the bytes of the table of lists what ``specs/vector-index.md`` says?"""

import numpy as np
import pytest

from zarrvec.errors import CorruptError
from zarrvec.search.list_table import SHARED_HEAD, ListTable
from zarrvec.search.records import LIST_HEAD, Layout


def test_a_table_comes_back():
    layout = Layout(width=3, id_bytes=4, has_norms=False)
    heads = np.zeros(2, LIST_HEAD)
    heads["offset"], heads["count"], heads["scale"] = [0, 5], [5, 7], [0.5, 0.25]
    centroids = np.array([[1, -2, 127], [0, 4, -127]], "i1")
    raw = ListTable(heads, centroids).encode()
    assert raw.shape == (2, layout.list_bytes)
    found = ListTable.decode(raw.tobytes(), layout, name="x")
    np.testing.assert_array_equal(found.heads, heads)
    assert found.vectors().tolist() == [[0.5, -1, 63.5], [0, 1, -31.75]]


@pytest.mark.parametrize("size", [1, 30, 32, 61])
def test_parts_of_rows_are_refused(size):
    with pytest.raises(CorruptError, match=f"x: {size} bytes are no whole rows of 31"):
        ListTable.decode(bytes(size), Layout(width=3, id_bytes=4, has_norms=False), name="x")


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_are_refused(scale):
    heads = np.zeros(1, LIST_HEAD)
    heads["scale"] = scale
    raw = ListTable(heads, np.zeros((1, 3), "i1")).encode()
    with pytest.raises(CorruptError, match="scale"):
        ListTable.decode(raw, Layout(width=3, id_bytes=4, has_norms=False), name="x")


def test_row_sizes_are_fixed():
    assert (LIST_HEAD.itemsize, SHARED_HEAD.itemsize) == (28, 20)
