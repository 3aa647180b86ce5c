"""Are the vectors that a selection touches found, and what it takes of them, as numpy would?"""

import numpy as np
import pytest

from zarrvec.codecs.selecting import runs_of, select

CHUNK = np.arange(3 * 4 * 5).reshape(3, 4, 5)
FLAT = CHUNK.reshape(-1, 5)


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (np.s_[:, :, :], 12),
        (np.s_[1, 2, 3], 1),
        (np.s_[1, :, ::2], 4),
        (np.s_[0:2, 3, 4], 2),
        (np.s_[0:0, :, :], 0),
        (np.s_[2:0:-1, 1:3, 1:4], 4),
        (np.ix_([0, 2], [1], [0, 4]), 2),
        (np.ix_([2, 0], [3, 3], [4, 0, 0]), 2),
        ((np.array([2, 0, 2]), np.array([1, 1, 1]), np.array([0, 4, 0])), 2),
        ((np.array([True, False, True]), 1, slice(None)), 2),
        ((slice(None), slice(None), np.array([3, 1])), 12),
        ((CHUNK % 7 == 0,), 9),
    ],
    ids=str,
)
def test_what_is_taken_is_what_numpy_takes(selection, rows):
    wanted = select(selection, CHUNK.shape)
    assert (np.diff(wanted.rows) > 0).all()
    assert len(wanted.rows) == rows
    found = wanted.of(FLAT[wanted.rows])
    np.testing.assert_array_equal(found, CHUNK[selection], strict=True)


def test_runs():
    assert runs_of(np.array([], np.int64), 10) == []
    assert runs_of(np.array([4]), 10) == [(4, 5)]
    assert runs_of(np.arange(100), 10) == [(0, 100)]
    assert runs_of(np.array([0, 7, 15]), 10, gap_bytes=60) == [(0, 8), (15, 16)]
    assert runs_of(np.array([0, 7, 15]), 10, gap_bytes=0) == [(0, 1), (7, 8), (15, 16)]
