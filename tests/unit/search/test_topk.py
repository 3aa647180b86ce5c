"""Are the nearest kept, the lower id at a tie, in whatever parts they come?"""

import numpy as np
import pytest

from zarrvec.search.topk import NO_ID, TopK


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_merge_equals_a_sort(parts):
    rng = np.random.default_rng(parts)
    distances = rng.integers(0, 20, size=(4, 200)) / 4
    top = TopK(queries=4, k=15)
    for ids in np.array_split(rng.permutation(200), parts):
        query, row = np.divmod(np.arange(4 * ids.size), ids.size)
        top.update(query, ids[row], distances[query, ids[row]])
    expected = np.argsort(distances, axis=1, kind="stable")[:, :15]
    assert top.ids.tolist() == expected.tolist()
    assert top.distances.tolist() == np.take_along_axis(distances, expected, axis=1).tolist()


def test_infinite_distances_still_take_a_place():
    top = TopK(queries=1, k=2)
    top.update(np.array([0]), np.array([4]), np.array([np.inf]))
    assert top.ids.tolist() == [[4, NO_ID]]


def test_nothing_offered():
    top = TopK(queries=2, k=1)
    top.update(np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0))
    assert top.thresholds(slice(0, 2)).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("queries", [3, 70_000])
def test_ids_decide_among_equal_distances_infinite_ones_too(queries):
    rng = np.random.default_rng(queries)
    distances = rng.choice([1.0, 2.0, 2.5, np.inf], size=(queries, 6))
    top = TopK(queries=queries, k=4)
    for ids in (np.array([5, 0]), np.array([3, 1]), np.array([4, 2])):
        query = np.repeat(np.arange(queries), 2)
        top.update(query, np.tile(ids, queries), distances[:, ids].ravel())
    expected = np.argsort(distances, axis=1, kind="stable")[:, :4]
    assert (top.ids == expected).all()
