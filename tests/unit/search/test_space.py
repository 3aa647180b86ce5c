"""Does an index hold the vectors, and compute the distances, of the metrics?"""

import numpy as np
import pytest

from zarrvec.search.metrics import METRICS, pair_distances, unit_rows
from zarrvec.search.space import distances_of, indexed_queries, indexed_rows

ROWS = np.random.default_rng(0).normal(3, 1, (50, 12))
ORIGIN = ROWS.mean(axis=0).astype("f4")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_distances_are_those_of_the_metric(metric, dtype):
    rows = ROWS.astype(dtype)
    origin = ORIGIN if metric == "l2" else None
    vectors, kept = indexed_rows(rows, metric, origin)
    assert kept.all()
    asked = ROWS[:5] + 0.3
    queries = indexed_queries(asked, metric, origin)
    scores = -(queries @ vectors.T)
    if metric == "l2":
        scores = 2 * scores + (vectors**2).sum(axis=1)
    found = distances_of(scores, queries, metric)
    whole = unit_rows(asked)[0] if metric == "cosine" else asked
    query, row = np.divmod(np.arange(5 * 50), 50)
    expected = pair_distances(metric, rows, row, whole, query).reshape(5, 50)
    np.testing.assert_allclose(found, expected, rtol=2e-3 if dtype == "f2" else 1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_left_out(metric):
    rows = np.array([[1, 2], [np.nan, 0], [np.inf, 1], [3, 4]], "f4")
    vectors, kept = indexed_rows(rows, metric)
    assert kept.tolist() == [True, False, False, True]
    assert vectors.shape == (2, 2)
    assert vectors.dtype == np.float32


def test_rows_too_large_for_float32_have_a_direction_only():
    rows = np.array([[3e200, 4e200], [3e30, 4e30], [3e-30, 4e-30], [3e-300, 4e-300]])
    vectors, kept = indexed_rows(rows, "cosine")
    assert kept.all()
    np.testing.assert_allclose(vectors, [[0.6, 0.8]] * 4, rtol=1e-6)
    assert indexed_rows(rows, "l2")[1].tolist() == [False, False, True, True]
    assert indexed_rows(rows, "ip")[1].tolist() == [False, False, True, True]


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_distances_of_what_is_indexed_do_not_overflow(metric):
    rows = np.array([[1e18, 0], [-1e18, 1e17], [1e19, 0], [0, -1.8e19]], "f4")
    vectors, kept = indexed_rows(rows, metric)
    assert kept.tolist() == [True, True, False, False]
    assert np.isfinite(((2 * vectors[0] - 2 * vectors[1]) ** 2).sum())


def test_zero_rows_and_queries_are_at_distance_one():
    vectors, kept = indexed_rows(np.zeros((1, 3)), "cosine")
    assert kept.all()
    assert not vectors.any()
    queries = indexed_queries(np.zeros((1, 3)), "cosine")
    assert distances_of(-(queries @ vectors.T), queries, "cosine").tolist() == [[1.0]]


def test_the_origin_keeps_digits():
    rows = 1e4 + np.random.default_rng(0).normal(size=(20, 6))
    origin = rows.mean(axis=0).astype("f4")
    vectors, _ = indexed_rows(rows, "l2", origin)
    query = indexed_queries(rows[:1] + 0.25, "l2", origin)
    found = distances_of((vectors**2).sum(axis=1) - 2 * query @ vectors.T, query, "l2")
    np.testing.assert_allclose(found[0], ((rows - rows[0] - 0.25) ** 2).sum(axis=1), rtol=1e-3)


def test_distances_are_never_negative_but_those_of_products():
    query = np.array([[3, 4]], "f4")
    assert distances_of(np.array([[-25.001]], "f4"), query, "l2").tolist() == [[0.0]]
    assert distances_of(np.array([[-1.0001]], "f4"), query, "cosine").tolist() == [[0.0]]
    assert distances_of(np.array([[-7]], "f4"), query, "ip").tolist() == [[-7.0]]


def test_integers_are_rows_too():
    vectors, kept = indexed_rows(np.array([[3, 4], [0, 0]], "i1"), "cosine")
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert kept.all()
