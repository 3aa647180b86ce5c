"""Is the recall that is written down the recall that a search has?"""

import numpy as np
import pytest

from zarrvec.search.calibrate import CALIBRATED_K, calibrate, list_ranks, nprobe_grid
from zarrvec.search.depth import Compass


def test_ranks_are_places_in_the_order_of_probing():
    random = np.random.default_rng(0)
    compass = Compass.of(random.normal(size=(30, 5)).astype("f4"), np.ones(30, "f4"), "cosine")
    queries = random.normal(size=(7, 5)).astype("f4")
    lists = np.tile(np.append(np.arange(30), -1), (7, 1))[:, None].astype("i4")
    ranks, nearest = list_ranks(queries, compass, lists)
    probes = compass.probe(queries, 30)
    for query in range(7):
        assert ranks[query, 0, probes.lists[query]].tolist() == list(range(30))
        assert ranks[query, 0, -1] == 30
    away = ((queries[:, None] - compass.vectors[None]) ** 2).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(nearest, away, rtol=1e-4)


@pytest.mark.parametrize("nlist", [1, 2, 9, 10, 100, 12_345])
def test_grids_ascend_to_all(nlist):
    grid = nprobe_grid(nlist)
    assert grid[0] == 1
    assert grid[-1] == nlist
    assert (np.diff(grid) > 0).all()
    assert len(grid) < 100


LOST = {4: [0.3, 0.2, 0.1], 8: [0.03, 0.02, 0.01]}


def calibrated(*, columns=150):
    ranks = np.random.default_rng(0).integers(41, size=(25, columns, 2)).astype("i4")
    nearest = np.arange(25, dtype="f4")
    return calibrate(source="rows", nlist=40, ranks=ranks, nearest=nearest, lost=LOST), ranks


def test_recall_is_the_share_of_neighbours_in_lists_that_are_probed():
    known, ranks = calibrated()
    assert [curve.k for curve in known.curves] == list(CALIBRATED_K)
    for curve in known.curves:
        for nprobe, recall, error in zip(known.nprobe, curve.recall, curve.error, strict=True):
            shares = [
                sum(min(ranks[query, neighbour]) < nprobe for neighbour in range(curve.k)) / curve.k
                for query in range(25)
            ]
            assert recall == pytest.approx(np.mean(shares), abs=1e-6)
            assert error == pytest.approx(np.std(shares) / 5, abs=1e-6)


def test_few_true_neighbours_have_few_curves():
    assert [curve.k for curve in calibrated(columns=50)[0].curves] == [1, 10]
    assert [curve.k for curve in calibrated(columns=3)[0].curves] == [1]


def test_what_codes_lose_is_told_of_each_k():
    known, _ = calibrated()
    assert [curve.loss for curve in known.curves] == [
        {"4": 0.3, "8": 0.03},
        {"4": 0.2, "8": 0.02},
        {"4": 0.1, "8": 0.01},
    ]


def test_what_is_far():
    known, _ = calibrated()
    assert 23 < known.far < 24
    assert known.queries == 25


def test_a_row_alone_misses_nothing():
    known = calibrate(
        source="rows", nlist=1, ranks=np.empty((1, 0, 2), "i4"), nearest=np.zeros(1, "f4"), lost={4: [0.0] * 3, 8: [0.0] * 3}
    )  # fmt: skip
    assert [(curve.k, curve.recall, curve.loss) for curve in known.curves] == [
        (1, (1.0,), {"4": 0.0, "8": 0.0})
    ]
    assert known.nprobe_for(1.0, 10, bits=8) == 1
