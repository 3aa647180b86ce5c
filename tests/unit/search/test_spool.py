"""Do entries come back from memory or the temporary file, list by list?"""

import numpy as np
import pytest

from zarrvec.search import spool as spool_module
from zarrvec.search.quantize import Codes, quantize
from zarrvec.search.records import Layout
from zarrvec.search.spool import Spool


def coded(count, width, seed=0):
    random = np.random.default_rng(seed)
    return quantize(random.normal(size=(count, width)).astype("f4"), np.zeros((count, width), "f4"))


@pytest.mark.parametrize("memory_bytes", [0, 1_500, 1 << 20])
@pytest.mark.parametrize("id_bytes", [4, 8])
@pytest.mark.parametrize("has_norms", [True, False])
def test_entries_come_back_in_the_order_of_their_lists(
    tmp_path, has_norms, id_bytes, memory_bytes, monkeypatch
):
    monkeypatch.setattr(spool_module, "MEMORY_BYTES", memory_bytes)
    random = np.random.default_rng(0)
    parts = []
    with Spool(Layout(width=5, id_bytes=id_bytes, has_norms=has_norms), folder=str(tmp_path)) as spool:
        for part in range(4):
            ids, lists = 100 * part + np.arange(30), random.integers(7, size=30)
            parts.append((ids, lists, coded(30, 5, part)))
            spool.add(*parts[-1])
        order, counts = spool.sort(9)
        found = spool.entries(order)
        packed = spool.packed(order[10:], np.array([70, 0, 40]))
        again = spool.layout.pack_lists(found, np.arange(10, 120), np.array([70, 0, 40]))
        np.testing.assert_array_equal(packed, again)
        assert spool.count == 120
        assert spool.rows() == 120
    ids, lists = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    expected = np.argsort(lists, kind="stable")
    np.testing.assert_array_equal(found.ids, ids[expected])
    assert counts.tolist() == np.bincount(lists, minlength=9).tolist()
    together = Codes(*(np.concatenate(columns) for columns in zip(*(part[2] for part in parts), strict=True)))
    np.testing.assert_array_equal(found.codes, together.codes[expected])
    np.testing.assert_array_equal(found.scales, together.scales[expected])
    np.testing.assert_array_equal(found.errors, together.errors[expected])
    assert (found.norms is None) != has_norms
    if found.norms is not None:
        np.testing.assert_array_equal(found.norms, together.norms[expected])


def test_rows_are_counted_once():
    with Spool(Layout(width=2, id_bytes=4, has_norms=False)) as spool:
        spool.add(np.array([3, 4, 3]), np.array([0, 1, 2]), coded(3, 2))
        assert (spool.count, spool.rows()) == (3, 2)


def test_nothing_in_it():
    with Spool(Layout(width=2, id_bytes=4, has_norms=True)) as spool:
        order, counts = spool.sort(3)
        assert (order.tolist(), counts.tolist(), spool.rows()) == ([], [0, 0, 0], 0)
        assert spool.entries(order).codes.shape == (0, 2)


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "MEMORY_BYTES", 0)
    with Spool(Layout(width=2, id_bytes=4, has_norms=False), folder=str(tmp_path)) as spool:
        spool.add(np.array([3]), np.array([0]), coded(1, 2))
    assert list(tmp_path.iterdir()) == []
