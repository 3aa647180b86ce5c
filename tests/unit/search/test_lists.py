"""Is what is kept of posting lists bounded, and safe from what becomes of the memory that they were read into?"""

from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import zarrvec
from zarrvec.search import index, sources
from zarrvec.search.cache import LISTS, ROOTS

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("quick_builds")]

ROWS = np.random.default_rng(0).standard_normal((6_000, 64)).astype("f4")
QUERIES = np.random.default_rng(1).standard_normal((60, 64)).astype("f4")


@pytest.fixture(autouse=True)
def _nothing_held(numpy_alone):  # compiled code copies all lists
    LISTS.clear()
    ROOTS.clear()


def indexed(store):
    array = zarr.create_array(store, name="emb", data=ROWS, chunks=(1000, 64))
    array.vec.build_index(metric="l2", nlist=60)
    return array


def memories():
    """Return the bytes of each memory that lists in the cache keep alive, and how many lists are parts of a larger one."""
    found: dict[int, int] = {}
    parts = 0
    for kept, _ in LISTS._held.values():
        owner: Any = kept.data
        while (below := getattr(owner, "base" if isinstance(owner, np.ndarray) else "obj", None)) is not None:
            owner = below
        found[id(owner)] = memoryview(owner).nbytes
        parts += found[id(owner)] > kept.data.nbytes
    return found, parts


def test_first_lists_are_kept_where_they_were_read(tmp_path):
    array = indexed(zarrvec.open_store(f"zarrvec://{tmp_path}"))
    array.vec.search(QUERIES[0], 10)  # reads all of it
    found, parts = memories()
    assert len(found) == 1
    assert parts == len(LISTS._held) == 60
    assert sum(found.values()) <= 2 * LISTS.bytes_held


def test_what_lists_keep_alive_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "WHOLE_BYTES", 0)
    monkeypatch.setattr(sources, "GAP_BYTES", 16_000)
    monkeypatch.setattr(LISTS, "limit_bytes", 400_000)
    array = indexed(zarrvec.open_store(f"zarrvec://{tmp_path}"))
    parts_each = []
    for query in QUERIES:
        array.vec.search(query, 10, nprobe=12)
        found, parts = memories()
        parts_each.append(parts)
        assert sum(found.values()) <= 2 * LISTS.limit_bytes
    assert parts_each[0] > 0
    assert parts_each[-1] == 0
    assert LISTS.bytes_held > LISTS.limit_bytes / 2


def test_memory_that_may_change_is_copied():
    store = MemoryStore()
    array = indexed(store)
    expected = array.vec.search(QUERIES[0], 10).ids.tolist()
    for key, value in store._store_dict.items():
        if "entries/c" in key:
            value.as_numpy_array()[...] = 0
    assert array.vec.search(QUERIES[0], 10).ids.tolist() == expected
