"""The blocks of a copy: legal, within memory, and no source unit read more often than memory forces."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrvec.layout.blocking import blocks, edges_of, pieces, plan_blocks, touched

pytestmark = pytest.mark.once


def reads_of(edges, units, counts):
    """Count reads of source units by going through all blocks."""
    grid = [-(-int(cut[-1]) // unit) for cut, unit in zip(edges, units, strict=True)]
    total = 0
    for block in blocks(grid, counts):
        box = tuple(
            (part.start * unit, min(part.stop * unit, int(cut[-1])))
            for part, unit, cut in zip(block, units, edges, strict=True)
        )
        total += math.prod(part.stop - part.start for part in touched(box, edges))
    return total


axes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


@given(st.lists(axes, min_size=1, max_size=3), st.integers(1, 400))
def test_no_block_that_fits_needs_fewer_reads(given_axes, cells):
    lengths, theirs, units = (list(each) for each in zip(*given_axes, strict=True))
    edges = [edges_of(length, unit) for length, unit in zip(lengths, theirs, strict=True)]
    found = plan_blocks(edges, units, cells=cells)
    grid = [-(-length // unit) for length, unit in zip(lengths, units, strict=True)]

    def size(counts):
        return math.prod(
            min(unit * count, length) for unit, count, length in zip(units, counts, lengths, strict=True)
        )

    legal = [
        counts
        for counts in itertools.product(*(range(1, count + 1) for count in grid))
        if size(counts) <= cells
    ]
    if found is None:
        assert not legal
        return
    assert found.cells == size(found.units) <= cells
    assert (
        found.reads
        == reads_of(edges, units, found.units)
        == min(reads_of(edges, units, one) for one in legal)
    )
    assert found.source_units == math.prod(len(cut) - 1 for cut in edges)


@given(st.lists(axes, min_size=1, max_size=3), st.data())
def test_blocks_and_pieces_cover_everything_once(given_axes, data):
    lengths, theirs, counts = (list(each) for each in zip(*given_axes, strict=True))
    edges = [edges_of(length, unit) for length, unit in zip(lengths, theirs, strict=True)]
    box = tuple(
        sorted(data.draw(st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True)))
        for length in lengths
    )
    limit = data.draw(st.integers(1, 300))
    seen = np.zeros(lengths, dtype=int)
    for piece in pieces(box, edges, cells=limit):
        seen[tuple(slice(*part) for part in piece)] += 1
        units = touched(piece, edges)
        size = math.prod(
            int(cut[part.stop] - cut[part.start]) for part, cut in zip(units, edges, strict=True)
        )
        assert size <= limit or all(part.stop - part.start == 1 for part in units)
    inside = tuple(slice(*part) for part in box)
    assert (seen[inside] == 1).all()
    assert seen.sum() == math.prod(stop - start for start, stop in box)
    covered = np.zeros(lengths, dtype=int)
    for block in blocks(lengths, counts):
        covered[block] += 1
    assert (covered == 1).all()


def test_rows_into_columns():
    rows, columns = edges_of(100_000, 1), edges_of(100_000, 100_000)
    found = plan_blocks([rows, columns], (100_000, 1), cells=1 << 28)
    assert found is not None
    assert found.amplification == 49  # and as few blocks of columns fit into so much memory


def test_many_short_units_make_large_blocks():
    found = plan_blocks([edges_of(1_000_000, 7)], (13,), cells=1 << 26)
    assert found is not None
    assert found.amplification == 1
    assert found.cells == 1_000_000


@pytest.mark.parametrize("cells", [1, 9])
def test_too_little_for_one_unit(cells):
    assert plan_blocks([edges_of(100, 10)], (10,), cells=cells) is None


def test_an_empty_axis():
    found = plan_blocks([edges_of(0, 10), edges_of(5, 5)], (10, 2), cells=100)
    assert found is not None
    assert list(blocks((0, 3), found.units)) == []
