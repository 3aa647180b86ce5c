"""Does ``array.vec`` choose the metric and check its options?"""

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from zarrvec.errors import OptionError
from zarrvec.search.accessor import VectorAccessor

DATA = np.array([[1, 0], [4, 1], [0, 1]], "f4")


@pytest.fixture
def array():
    return zarr.create_array(MemoryStore(), data=DATA, chunks=(2, 2))


def test_metric_is_cosine_then_stored_then_asked_for(array):
    vec = VectorAccessor(array)
    assert vec.search([1, 0], k=1).ids.tolist() == [0]
    array.attrs["zarrvec"] = {"metric": "ip"}
    assert vec.search([1, 0], k=1).ids.tolist() == [1]
    assert vec.search([1, 0], k=1, metric="l2").ids.tolist() == [0]
    assert "'ip'" in repr(vec)


def test_stored_nonsense_is_named(array):
    array.attrs["zarrvec"] = {"metric": "hamming"}
    with pytest.raises(OptionError, match="attrs"):
        VectorAccessor(array).search([1, 0])
    array.attrs["zarrvec"] = "other"
    assert VectorAccessor(array).metric == "cosine"


def test_default_k_and_vectors(array):
    hits = VectorAccessor(array).search([[1, 0]], include=["vectors"], recall=1, exact=True, where=[1, 2])
    assert hits.vectors is not None
    assert hits.vectors.tolist() == [DATA[[1, 2]].tolist()]
    assert VectorAccessor(array).search([1, 0], include="vectors").vectors is not None
    assert VectorAccessor(array).search([1, 0]).vectors is None


@pytest.mark.parametrize("recall", [0, -1, 1.5, float("nan"), "high", None])
def test_wrong_recall(array, recall):
    with pytest.raises(OptionError, match="recall"):
        VectorAccessor(array).search([1, 0], recall=recall)


def test_unknown_include(array):
    with pytest.raises(OptionError, match="labels"):
        VectorAccessor(array).search([1, 0], include=["vectors", "labels"])


@pytest.mark.parametrize("include", [[1], None, 3, ["../labels"]])
def test_what_is_no_name(array, include):
    with pytest.raises(OptionError, match="expected"):
        VectorAccessor(array).search([1, 0], include=include)
