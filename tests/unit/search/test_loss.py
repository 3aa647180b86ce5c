"""Is what codes lose what a ranking of all rows by their codes loses?"""

import numpy as np
import pytest

from zarrvec.search.depth import candidates_for
from zarrvec.search.loss import Ranked, as_compiled, losses

K = (1, 10, 100)


def lost_of(distances, scores, k):
    """Rank all rows by their scores."""
    nearest = np.sort(distances, axis=1)[:, k - 1 : k]
    ranked = np.argsort(scores, axis=1)[:, :k]
    return 1 - np.mean(np.take_along_axis(distances, ranked, axis=1) <= nearest)


def ranked_of(distances, scores, near, weight):
    """Take the nearest rows of each query, and some of the others that stand for all of them."""
    order = np.argsort(distances, axis=1, kind="stable")
    kept = np.concatenate([order[:, :near], order[:, near::weight]], axis=1)
    weights = np.full(kept.shape, float(weight))
    weights[:, :near] = 1
    taken = [np.take_along_axis(values, kept, axis=1) for values in (scores, distances)]
    return Ranked(taken[0].astype("f4"), taken[1], weights)


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02, 0.3, 10.0])
@pytest.mark.parametrize("weight", [1, 4])
def test_losses(noise, weight):
    random = np.random.default_rng(1)
    distances = random.random((100, 2000)) ** 0.2
    scores = distances + noise * random.normal(size=distances.shape)
    told = losses(ranked_of(distances, scores, 200, weight), K, 8)
    for k, lost in zip(K, told, strict=True):
        again = lost_of(distances, scores, candidates_for(k, 8) if k < 100 else 210)
        expected = lost_of(distances, scores, k)
        if lost == 1:
            assert k * expected > 0.01 or again > 0.01
        else:
            assert lost == pytest.approx(expected, abs=0.03)
            assert lost < 0.5


def test_one_score_for_all():
    distances = np.tile(np.arange(1000.0), (3, 1))
    scores = np.zeros((3, 1000))
    assert losses(ranked_of(distances, scores, 200, 4), K, 8) == [1, 1, 1]  # nothing is found, but by chance


def test_rows_that_are_equal_may_be_found_for_each_other():
    distances, scores = np.zeros((3, 1000)), np.random.default_rng(0).random((3, 1000))
    assert losses(ranked_of(distances, scores, 200, 4), K, 8) == [0, 0, 0]


def test_one_behind_all_is_lost_for_good():
    distances = np.tile(np.arange(1000.0), (3, 1))
    scores = distances.copy()
    scores[:, 9] = 10**6
    assert losses(ranked_of(distances, scores, 200, 1), K, 8) == [0, 1, 0.01]


@pytest.mark.parametrize("width", [1, 40, 1001])
@pytest.mark.parametrize("large", [None, 1e4, 1e30, 0])
def test_queries_are_rounded_as_by_compiled_code(width, large):
    products = pytest.importorskip("zarrvec.search._numba_products")
    queries = np.random.default_rng(0).normal(size=(5, width)).astype("f4")
    if large is not None:
        queries[:, 0] = large
    if large == 0:
        queries[:] = 0
    half = (width + 1) // 2
    coded, steps, _ = products._quantize(queries, (width, 4, False, 8), half)
    expected = coded[:, :width] * steps[:, None]
    np.testing.assert_allclose(as_compiled(queries), expected, rtol=1e-6)
