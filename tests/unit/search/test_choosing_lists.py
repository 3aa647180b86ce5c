"""Are the lists that compiled code chooses for a query those of the least keys, however it rounds on the way?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zarrvec.search import coarse, kernels
from zarrvec.search.depth import Compass
from zarrvec.search.list_table import ListTable
from zarrvec.search.records import LIST_HEAD

pytestmark = pytest.mark.once

pytest.importorskip("numba")


def spread(rng, count, width):
    return rng.standard_normal((count, width))


def sparse(rng, count, width):
    """Few numbers are not 0, and these are of one sign."""
    return np.where(rng.random((count, width)) < 0.2, rng.random((count, width)), 0)


def slanting(rng, count, width):
    """All rows are near one another, and far from 0."""
    return 3 + rng.standard_normal((count, width)) / 50


def ragged(rng, count, width):
    """One number of each row is much larger than the others."""
    rows = rng.standard_normal((count, width))
    rows[np.arange(count), rng.integers(0, width, count)] *= 100
    return rows


def faint(rng, count, width):
    """Most numbers are less than the step to which they are rounded."""
    rows = rng.standard_normal((count, width)) / 40
    rows[:, 0] = 1
    return rows


def lopsided(rng, count, width):
    """In clusters, where it is not for a few dimensions that are much larger than all others."""
    rows = rng.standard_normal((max(1, count // 8), width))[rng.integers(0, max(1, count // 8), count)]
    rows += 0.7 * rng.standard_normal((count, width))
    rows[:, :3] = 40 * rng.standard_normal((count, min(3, width)))
    return rows


def table_of(rows, largest=127):
    scales = np.abs(rows).max(axis=1) / largest
    heads = np.zeros(len(rows), LIST_HEAD)
    heads["scale"], heads["radius"] = scales, 1
    divided = np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0)
    return ListTable(heads, np.rint(divided).astype(np.int8))


def check(compass, queries, nprobe):
    """Compare with keys computed in double precision; of two that differ by less than float32 tells either may be first."""
    probes = compass.probe(queries.astype(np.float32), nprobe)
    given = queries.astype(np.float32).astype(np.float64)
    products = given @ compass.vectors.astype(np.float64).T
    factors = np.linalg.norm(given, axis=1) if compass.metric == "ip" else np.ones(len(given))
    keys = factors[:, None] * compass.bias - 2 * products
    chosen = np.take_along_axis(keys, probes.lists, axis=1)
    near = (compass.squares - 2 * products).min(axis=1) + (given**2).sum(axis=1)
    lengths = np.linalg.norm(given, axis=1, keepdims=True) + np.sqrt(compass.squares.max())
    rounding = 1e-30 + 1e-6 * lengths**2
    assert all(len(set(lists)) == nprobe for lists in probes.lists.tolist())
    assert (np.diff(chosen, axis=1) >= -rounding).all()
    assert (chosen <= np.sort(keys, axis=1)[:, :nprobe] + rounding).all()
    assert (abs(probes.products - np.take_along_axis(products, probes.lists, axis=1)) <= rounding).all()
    assert (abs(probes.nearest - near) <= 4 * rounding[:, 0]).all()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize(("kind", "largest"), [(lopsided, 127), (spread, 7), (lopsided, 7), (spread, 126)])
def test_what_is_rounded_away_points_where_the_centroid_does(kind, largest, metric, monkeypatch):
    """Few numbers are so large that the others are rounded to 0: products say nothing then, and that is no matter of chance."""
    monkeypatch.setattr(coarse, "_EASY_BYTES", 0)
    assert kernels.compile_now()
    rng = np.random.default_rng(3)
    rows = kind(rng, 3_000, 384)
    queries = rows[:100] + rng.standard_normal((100, 384)) / 2
    queries[:, :3] = 0
    compass = Compass.of_table(table_of(rows, largest), metric)
    for nprobe in (1, 10):
        check(compass, queries, nprobe)


@pytest.fixture(params=["all of them", "high planes"])
def seen(request, monkeypatch):
    """What is read of all centroids."""
    if request.param == "high planes":
        monkeypatch.setattr(coarse, "_EASY_BYTES", 0)
    assert kernels.compile_now()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", [spread, sparse, slanting, ragged, faint])
@pytest.mark.parametrize("width", [2, 33, 128, 300])
def test_lists_of_the_least_keys(seen, kind, metric, width):
    rng = np.random.default_rng(width)
    compass = Compass.of_table(table_of(kind(rng, 900, width)), metric)
    for queries in (kind(rng, 40, width), spread(rng, 3, width)):
        for nprobe in (1, 7, 100):
            check(compass, queries, nprobe)


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([spread, sparse, slanting, ragged, faint]),
    st.integers(1, 80),
    st.integers(1, 300),
    st.integers(1, 9),
    st.data(),
)
def test_any_number_of_lists_and_queries(seed, kind, width, nlist, count, data):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "_EASY_BYTES", data.draw(st.sampled_from([0, 1 << 20])))
        assert kernels.compile_now()
        compass = Compass.of_table(table_of(kind(rng, nlist, width)), "cosine")
        check(compass, kind(rng, count, width), data.draw(st.integers(1, nlist)))


def test_zeros_and_the_largest_numbers(seen):
    rows = np.concatenate([np.zeros((20, 3000)), np.ones((20, 3000)), -np.ones((20, 3000))])
    compass = Compass.of_table(table_of(rows), "cosine")
    check(compass, np.stack([np.ones(3000), np.full(3000, 1.01), -np.ones(3000), np.zeros(3000)]), 20)
    check(Compass.of_table(table_of(rows[:20]), "ip"), np.ones((1, 3000)), 20)
