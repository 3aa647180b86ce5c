"""Do the distances mean what is documented, and do the bounds hold in the worst cases?"""

import itertools

import numpy as np
import pytest

from zarrvec.errors import OptionError
from zarrvec.search.metrics import (
    METRICS,
    check_metric,
    lower_bounds,
    pair_distances,
    query_terms,
    row_terms,
    unit_rows,
    working_dtype,
)

SINGLE, DOUBLE = np.dtype("f4"), np.dtype("f8")


def measured(metric, rows, queries):
    """All pairs, (q, n)."""
    query, row = np.divmod(np.arange(len(queries) * len(rows)), len(rows))
    prepared = unit_rows(queries)[0] if metric == "cosine" else queries
    return pair_distances(metric, rows, row, prepared, query).reshape(len(queries), len(rows))


def test_distances_are_those_of_numpy():
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(50, 7)).astype("f4"), rng.normal(size=(3, 7))
    wide = rows.astype("f8")
    products = queries @ wide.T
    np.testing.assert_allclose(measured("ip", rows, queries), -products, atol=1e-12)
    squares = ((wide[None] - queries[:, None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(measured("l2", rows, queries), squares, rtol=1e-12)
    cosines = products / np.linalg.norm(wide, axis=1) / np.linalg.norm(queries, axis=1)[:, None]
    np.testing.assert_allclose(measured("cosine", rows, queries), 1 - cosines, atol=1e-12)


def test_near_vectors_do_not_cancel():
    x = np.full((1, 4), 1e6) + np.array([[1e-6, 0, 0, 0]])
    q = np.full((1, 4), 1e6)
    step = x[0, 0] - 1e6
    assert measured("l2", x, q)[0, 0] == step**2
    assert measured("cosine", q, q)[0, 0] == pytest.approx(0, abs=1e-30)
    half_angle = np.array([[1.0, 1e-9]])
    assert measured("cosine", half_angle, np.array([[1.0, 0.0]]))[0, 0] == pytest.approx(0.5e-18, rel=1e-6)


def test_zero_vectors_are_at_cosine_distance_one():
    rows, queries = np.array([[0, 0], [1, 0]], "f4"), np.array([[0.0, 0.0], [2.0, 0.0]])
    assert measured("cosine", rows, queries).tolist() == [[1, 1], [1, 0]]


def test_extreme_sizes_neither_overflow_to_nan_nor_vanish():
    rows = np.array([[1e200, -1e200], [1e200, 1e200], [1e-200, 0]])
    queries = np.array([[1e200, 1e200]])
    assert measured("ip", rows, queries)[0].tolist() == [0, -np.inf, -1.0]
    assert measured("cosine", rows, queries)[0] == pytest.approx([1, 0, 1 - np.sqrt(0.5)])
    assert not np.isnan(measured("l2", rows, -queries)).any()


def test_the_same_pair_has_the_same_bits_wherever_it_stands():
    rng = np.random.default_rng(1)
    rows, queries = np.repeat(rng.normal(size=(1, 37)), 9000, axis=0), rng.normal(size=(1, 37))
    for metric in METRICS:
        assert np.unique(measured(metric, rows, queries)).size == 1


ROW_SCALES = {SINGLE: [1e-45, 1e-20, 1e-3, 1.0, 1e10, 1e18, 1e33], DOUBLE: [1e-300, 1e-45, 1.0, 1e18, 1e200]}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_bounds_hold(metric, dtype, offset):
    rng = np.random.default_rng(2)
    for row_scale, query_scale in itertools.product(ROW_SCALES[dtype], [1e-300, 1e-20, 1.0, 1e18, 1e300]):
        rows = ((rng.normal(size=(40, 33)) + offset) * row_scale).astype(dtype)
        rows[3] = 0
        queries = np.concatenate(
            [(rng.normal(size=(4, 33)) + offset) * query_scale, np.zeros((1, 33)), rows[:2]]
        )
        centre = rows.mean(axis=0, dtype="f8").astype(dtype).astype("f8")
        q_terms, r_terms = query_terms(metric, queries, dtype, centre), row_terms(metric, rows, dtype, centre)
        bounds = lower_bounds(q_terms, r_terms).astype("f8")
        truth = measured(metric, rows, queries)
        with np.errstate(over="ignore", invalid="ignore"):
            limits = np.stack([q_terms.limits(distances) for distances in truth.T], axis=1)
            upper = bounds + r_terms.slack + q_terms.slack[:, None]
            exact = (truth - q_terms.shift[:, None]) / q_terms.scale[:, None]
        assert not (bounds > limits).any(), (row_scale, query_scale)
        finite = np.isfinite(exact)
        assert not (upper[finite] < exact[finite]).any(), (row_scale, query_scale)


def test_working_precision():
    assert working_dtype(np.dtype("u1"), 384) == SINGLE
    assert working_dtype(np.dtype(">f8"), 384) == DOUBLE
    assert working_dtype(SINGLE, 1 << 20) == DOUBLE


@pytest.mark.parametrize("metric", ["euclid", None, 3, "L2"])
def test_unknown_metric(metric):
    with pytest.raises(OptionError, match="cosine"):
        check_metric(metric)


def test_a_metric_is_a_string_of_python():
    assert type(check_metric(np.str_("l2"))) is str
