"""Are rows read as they are asked for, and are the arrays beside the vectors those of the same rows?"""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from zarrvec.errors import OptionError
from zarrvec.search.reading import read_rows, sibling

DATA = np.arange(5 * 4 * 3 * 2).reshape(5, 4, 3, 2)


@given(
    axes=st.integers(1, 3),
    chunks=st.tuples(*(st.integers(1, length) for length in DATA.shape)),
    ids=st.lists(st.integers(0, 4), max_size=9),
    as_batch=st.booleans(),
)
@settings(max_examples=30)
def test_any_rows_of_any_array(axes, chunks, ids, as_batch):
    array = zarr.create_array(MemoryStore(), data=DATA, chunks=chunks)
    wanted = np.array(ids, dtype=np.int64)[None if as_batch else slice(None)]
    expected = DATA.reshape(-1, *DATA.shape[axes:])[wanted]
    found = read_rows(array, wanted, axes)
    assert found.shape == expected.shape
    assert (found == expected).all()


def test_what_is_beside():
    root = zarr.create_group(MemoryStore())
    group = root.create_group("a/b")
    vectors = group.create_array("emb", shape=(3, 4, 2), dtype="f4")
    text = group.create_array("text", shape=(3, 4), dtype="i2")
    assert sibling(vectors, "text").path == text.path
    group.create_array("short", shape=(3,), dtype="i4")
    group.create_group("more")
    for name in ("short", "more", "none", ""):
        with pytest.raises(OptionError, match=repr(name)):
            sibling(vectors, name)
