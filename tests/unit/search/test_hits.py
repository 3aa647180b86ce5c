"""Are hits easy to look at, and do they become a dataset?"""

import dataclasses
import sys

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from zarrvec.errors import OptionError
from zarrvec.search.exact import search_exact


@pytest.fixture
def hits():
    data = np.arange(24, dtype="f4").reshape(2, 4, 3)
    array = zarr.create_array(MemoryStore(), data=data, chunks=(1, 4, 3))
    return search_exact(array, data[0], k=6, metric="l2", include_vectors=True)


def test_length_and_repr(hits):
    assert len(hits) == 4
    text = repr(hits)
    assert text.startswith("<Hits: 4 queries, k=6>")
    assert text.count("ids") == 3
    assert text.endswith("...")


def test_frozen(hits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        hits.ids = hits.ids


def test_to_xarray(hits):
    dataset = hits.to_xarray()
    assert dict(dataset.sizes) == {"query": 4, "rank": 6, "component": 3}
    assert set(dataset) == {"ids", "distances", "index_0", "index_1", "vectors"}
    assert (dataset.ids == dataset.index_0 * 4 + dataset.index_1).all()


def test_to_xarray_of_one_query():
    array = zarr.create_array(MemoryStore(), data=np.eye(3, dtype="f4"), chunks=(3, 3))
    dataset = search_exact(array, [1, 0, 0], k=2, metric="ip").to_xarray()
    assert dataset.ids.dims == ("rank",)


def test_to_xarray_brings_columns(hits):
    values = np.arange(48).reshape(4, 6, 2)
    dataset = dataclasses.replace(hits, columns={"year": values[..., 0], "place": values}).to_xarray()
    assert dataset.year.dims == ("query", "rank")
    assert dataset.place.dims == ("query", "rank", "place_0")


@pytest.mark.parametrize(
    "names",
    [
        ["ids"],
        ["distances"],
        ["index_1"],
        ["vectors"],
        ["rank"],
        ["query"],
        ["component"],
        ["index"],
        ["a", "a_0"],
    ],
)
def test_to_xarray_refuses_names_of_its_own(hits, names):
    clash = dataclasses.replace(hits, columns={name: np.zeros((4, 6, 2)) for name in names})
    with pytest.raises(OptionError, match=f"column '{names[-1]}'.*hits.columns.*another name"):
        clash.to_xarray()


def test_to_xarray_without_xarray(hits, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(OptionError, match="pip install xarray"):
        hits.to_xarray()
