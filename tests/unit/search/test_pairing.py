"""Are the two lists of a row those of a plain loop over all lists?"""

import numpy as np
import pytest

from zarrvec.search import pairing
from zarrvec.search.clustering import SOAR_STRENGTH
from zarrvec.search.pairing import Pairing


def clustered(rows: int, width: int, clusters: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, width)) * 4
    return (centres[rng.integers(clusters, size=rows)] + rng.standard_normal((rows, width))).astype("f4")


@pytest.mark.parametrize("shift", [0, 1_000])
@pytest.mark.parametrize(("block", "lists"), [(1 << 17, 1_024), (100, 1_024), (1 << 17, 10)])
def test_pairs_are_those_of_a_plain_loop(shift, block, lists, monkeypatch):
    monkeypatch.setattr(pairing, "_BLOCK_DISTANCES", block)
    monkeypatch.setattr(pairing, "_ALL_PAIRS_LISTS", lists)
    rows, centroids = clustered(150, 10, 12) + shift, clustered(12, 10, 12, seed=1) + shift
    found = Pairing(centroids).find(rows)
    assert [str(column.dtype) for column in found] == ["int32", "float32", "int32", "float32"]
    for row, nearest, square, second, gain in zip(rows.astype("f8"), *found, strict=True):
        residuals = row - centroids
        squares = (residuals**2).sum(axis=1)
        assert nearest == np.argmin(squares)
        assert square == pytest.approx(squares[nearest], rel=1e-3)
        along = residuals @ residuals[nearest] / np.sqrt(squares[nearest])
        losses = squares + SOAR_STRENGTH * along**2
        losses[nearest] = np.inf
        assert second != nearest
        assert losses[second] == pytest.approx(losses.min(), rel=1e-3)
        assert gain == pytest.approx(-losses.min() / squares[nearest], rel=1e-3)


def test_a_row_at_its_centroid_or_with_one_list_gains_nothing():
    rows = np.array([[0, 0], [1, 0]], "f4")
    at_centroid, between = Pairing(np.array([[0, 0], [3, 0]], "f4")).find(rows).gains.tolist()
    assert at_centroid == -np.inf < between
    only = Pairing(np.array([[1, 1]], "f4")).find(rows)
    assert (only.nearest == only.second).all()
    assert (only.gains == -np.inf).all()


def test_rows_whose_losses_are_beyond_float32():
    rows = np.array([[1e18, 0], [0, -1e18], [0, 0]], "f4")
    found = Pairing(np.array([[1e18, 1e17], [0, 1], [0, 2]], "f4")).find(rows)
    assert found.nearest.tolist() == [0, 1, 1]
    assert (found.gains < 0).all()  # no row is put into a second list


def test_rows_whose_squares_are_hardly_above_nothing():
    rows = np.array([[1e-20, 0], [1e-21, 2e-21], [1e-15, 0]], "f4")
    found = Pairing(np.array([[0, 0], [3e-15, 0]], "f4")).find(rows)
    assert found.gains[:2].tolist() == [-np.inf] * 2
    assert np.isfinite(found.gains[2])


def test_no_rows_have_no_lists():
    assert [len(column) for column in Pairing(np.eye(3, dtype="f4")).find(np.empty((0, 3), "f4"))] == [0] * 4
