"""Do copies in large pages keep what was copied, apart from each other, for as long as they are used and no longer?"""

import gc
import os
import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrvec.search import arena
from zarrvec.search.arena import Arena

needs_large_pages = pytest.mark.skipif(arena._ADVICE is None, reason="no large pages can be asked for here")


def bytes_of(number, size):
    return np.random.default_rng(number).integers(0, 256, size, dtype="u1")


@given(
    steps=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 9), st.booleans()), max_size=60),
)
def test_copies_are_apart(steps):
    made = Arena(region_bytes=2048)
    held = {}
    for number, (size, dropped, is_cut) in enumerate(steps):
        copy = made.copy_of(bytes_of(number, size))
        assert copy.ctypes.data % 64 == 0 or copy.size == 0
        held[number] = copy[size // 2 :] if is_cut else copy
        held.pop(number - dropped, None)
        for of, kept in held.items():
            start = steps[of][0] // 2 if steps[of][2] else 0
            np.testing.assert_array_equal(kept, bytes_of(of, steps[of][0])[start:])
        spans = sorted(
            (kept.ctypes.data, kept.ctypes.data + kept.size) for kept in held.values() if kept.size
        )
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


@needs_large_pages
def test_room_is_used_again():
    made = Arena(region_bytes=1000 * 64)
    copies = [made.copy_of(bytes_of(number, 64)) for number in range(1000)]
    (region,) = (reference() for reference in made._regions)
    assert region._free == []
    places = {copy.ctypes.data for copy in copies[100:200]}
    del copies[100:200]
    copies += [made.copy_of(bytes_of(number, 128)) for number in range(50)]
    assert {copy.ctypes.data for copy in copies[-50:]} <= places
    assert len(made._regions) == 1


@needs_large_pages
def test_regions_are_given_back():
    made = Arena(region_bytes=4096)
    copies = [made.copy_of(bytes_of(number, 3000)) for number in range(3)]
    regions = [reference for reference in made._regions if reference() is not None]
    assert len(regions) == 3
    view = copies[1][:10].view()
    copies.clear()
    gc.collect()
    assert [region() is None for region in regions] == [True, False, True]
    assert view.tolist() == bytes_of(1, 3000)[:10].tolist()


def test_what_is_too_long_lies_elsewhere():
    made = Arena(region_bytes=4096)
    copy = made.copy_of(bytes_of(0, 5000))
    np.testing.assert_array_equal(copy, bytes_of(0, 5000))
    assert not made._regions


def test_without_large_pages(monkeypatch):
    monkeypatch.setattr(arena, "_ADVICE", None)
    made = Arena()
    np.testing.assert_array_equal(made.copy_of(bytes_of(0, 500)), bytes_of(0, 500))
    assert not made._regions


@needs_large_pages
def test_where_the_system_has_none(monkeypatch):
    monkeypatch.setattr(arena, "_ADVICE", 9999)
    np.testing.assert_array_equal(Arena().copy_of(bytes_of(0, 500)), bytes_of(0, 500))


@needs_large_pages
def test_where_memory_is_short(monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(arena.mmap, "mmap", refuse)
    made = Arena()
    np.testing.assert_array_equal(made.copy_of(bytes_of(0, 500)), bytes_of(0, 500))
    assert not made._regions


def test_threads():
    made = Arena(region_bytes=1 << 16)
    wrong = []

    def work(seed):
        rng, held = np.random.default_rng(seed), []
        for number in range(400):
            data = bytes_of(seed * 1000 + number, int(rng.integers(1, 5000)))
            held.append((data, made.copy_of(data)))
            if len(held) > 8:
                before, copy = held.pop(int(rng.integers(8)))
                if not np.array_equal(before, copy):
                    wrong.append((seed, number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_has_copies_of_its_own():
    made = Arena()
    before = made.copy_of(bytes_of(0, 100))
    with made._lock:  # as if another thread were making one
        child = os.fork()
        if child == 0:
            copy = made.copy_of(bytes_of(1, 100))
            ok = (copy == bytes_of(1, 100)).all() and (before == bytes_of(0, 100)).all()
            os._exit(0 if ok and copy.ctypes.data != before.ctypes.data else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert weakref.ref(before)() is before
