"""Does compiled code come by itself, while searches go on, whatever the process does meanwhile?"""

import importlib.util
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from zarrvec.format.envelope import crc32c
from zarrvec.search import kernels, loading
from zarrvec.search.kernels import ScanInput, scan
from zarrvec.search.loading import Loader
from zarrvec.search.records import Entries, Layout

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")

LAYOUT = Layout(width=8, id_bytes=4, has_norms=False)
CODES, ONES = np.random.default_rng(0).integers(0, 256, (10, 8), dtype=np.uint8), np.ones(10, "f4")
DATA = LAYOUT.pack(Entries(np.arange(10), ONES, ONES, None, CODES))


def threads_of_loaders():
    return [thread for thread in threading.enumerate() if thread.name == "zarrvec-compile"]


@needs_numba
def test_what_was_compiled_before_a_change_is_not_taken():
    """Numba's cache goes by the bytes of one file, and the kernels are in several."""
    from zarrvec.search import _numba_kernels

    folder = Path(_numba_kernels.__file__).parent
    names = ("_numba_products.py", "_numba_scans.py", "_numba_tiles.py", "_numpy_kernels.py")
    sources = b"".join(folder.joinpath(name).read_bytes().replace(b"\r\n", b"\n") for name in names)
    assert f"{crc32c(sources):08x}" == _numba_kernels.MADE_OF, (
        "change zarrvec/search/_numba_kernels.py to this"
    )


class TestWhichImplementation:
    @pytest.fixture
    def run(self, monkeypatch):
        monkeypatch.setattr(kernels, "_loader", Loader())
        addresses = np.array([[DATA.ctypes.data]], np.uint64)
        lists = ScanInput(layout=LAYOUT, addresses=addresses, counts=np.array([[10]]))
        arguments = (np.ones((1, 8), "f4"), np.array([[0]]), np.zeros((1, 1), "f4"))
        return lambda: scan(lists, *arguments, kept=3)

    @needs_numba
    def test_numba_once_the_work_has_paid_for_it(self, run, monkeypatch):
        monkeypatch.setattr(loading, "BREAK_EVEN", 160)
        first = run()
        assert not threads_of_loaders()
        assert run().ids.tolist() == first.ids.tolist()
        for thread in threads_of_loaders():
            thread.join()
        assert kernels.is_compiled()
        assert run().ids.tolist() == first.ids.tolist()

    @needs_numba
    def test_it_is_loaded_once_for_all_threads(self, run, monkeypatch):
        monkeypatch.setattr(loading, "BREAK_EVEN", 0)
        loads = []

        def load(loader):
            loads.append(loader)

        monkeypatch.setattr(Loader, "load", load)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: run(), range(100)))
        for thread in threads_of_loaders():
            thread.join()
        assert loads == [kernels._loader]

    def test_numpy_where_numba_is_not(self, run, monkeypatch):
        monkeypatch.setattr(loading, "BREAK_EVEN", 0)
        monkeypatch.setitem(sys.modules, "zarrvec.search._numba_kernels", None)
        monkeypatch.delattr("zarrvec.search._numba_kernels", raising=False)
        run()
        for thread in threads_of_loaders():
            thread.join()
        assert run().scanned == 10
        assert kernels._loader.missing
        assert not kernels.compile_now()


LISTS = """
import os, sys, time
import numpy as np
from zarrvec.search import kernels, loading
from zarrvec.search.records import Entries, Layout

rng = np.random.default_rng(0)
layout = Layout(width=75, id_bytes=4, has_norms=False)
codes = rng.integers(0, 256, (900, 75), dtype="u1")
data = layout.pack(Entries(np.arange(900), *np.ones((2, 900), "f4"), None, codes))
lists = kernels.ScanInput(layout=layout, addresses=np.array([[data.ctypes.data]], "u8"), counts=np.array([[900]]))
arguments = rng.normal(size=(5, 75)).astype("f4"), np.zeros((5, 1), int), np.zeros((5, 1), "f4")
expected = kernels.scan(lists, *arguments, kept=9)

def search():
    for part in slice(0, 1), slice(None):
        found = kernels.scan(lists, *(argument[part] for argument in arguments), kept=9)
        assert found.ids.tolist() == expected.ids[part].tolist()
        np.testing.assert_allclose(found.scores, expected.scores[part], rtol=1e-4)

def search_until(is_done):
    end = time.monotonic() + 100
    while not is_done():
        assert time.monotonic() < end
        search()
        time.sleep(0.01)
    search()

assert not kernels.is_compiled()
"""
LEAVES = """
loading.BREAK_EVEN = 0
search()
time.sleep(0.7)
assert not kernels.is_compiled()
"""
COMES_NEXT = """
from zarrvec.search import _numba_kernels
search_until(lambda: not _numba_kernels.is_cache_wanting())
loading.BREAK_EVEN = 0
search_until(kernels.is_compiled)
assert all(kernel.stats.cache_hits for kernel, _ in _numba_kernels.examples())
"""
NO_PLACE_FOR_A_CACHE = """
from numba.core.caching import _CacheLocator

def refuse(self):
    raise OSError("read-only")

_CacheLocator.ensure_cache_path = refuse
from zarrvec.search import _numba_kernels
assert not _numba_kernels.is_cache_wanting()
loading.BREAK_EVEN = 0
search_until(kernels.is_compiled)
"""
AT_ONCE = """
import fcntl, subprocess
count = "; from zarrvec.search import _numba_kernels as k; print(sum(n for f, _ in k.examples() for n in f.stats.cache_misses.values()))"
started = [subprocess.Popen([sys.executable, "-c", loading._COMPILE + count], stdout=subprocess.PIPE) for _ in range(3)]

def is_one_compiling():
    with open(loading.__file__.replace("loading", "_numba_kernels"), "rb") as kernels_file:
        try:
            fcntl.flock(kernels_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False

search_until(is_one_compiling)
"""
FORKS_AND_STAYS = """
loading.BREAK_EVEN = 0
search()
child = os.fork()
if child == 0:
    import numba
    assert not kernels.is_compiled()
    assert numba.njit(lambda number: number + 1)(1) == 2
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
search_until(kernels.is_compiled)
assert all(kernel.stats.cache_hits for kernel, _ in kernels._loader.module.examples())
"""
ONE_HAS_COMPILED = """
assert sorted(int(process.communicate()[0]) for process in started) == [0, 0, 3]
"""


@pytest.mark.once
@needs_numba
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="names features of x86")
class TestAMachineThatHasCompiledNothing:
    @pytest.fixture
    def run(self, tmp_path):
        """Run a program for a processor of few features, and expect it to end in peace."""

        def run(program, features):
            environment = {
                **os.environ,
                "NUMBA_CACHE_DIR": str(tmp_path),
                "NUMBA_CPU_NAME": "generic",
                "NUMBA_CPU_FEATURES": features,
            }
            command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", LISTS + program]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=200, env=environment
            )
            assert (done.returncode, done.stderr) == (0, "")

        return run

    def test_who_leaves_early_leaves_it_compiled_for_the_next(self, run):
        run(LEAVES, "+sse2")
        run(COMES_NEXT, "+sse2")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, and no locks of files")
    def test_of_processes_that_begin_at_once_one_compiles_while_searches_go_on_and_forks_as_well(self, run):
        run(AT_ONCE + FORKS_AND_STAYS + ONE_HAS_COMPILED, "+avx2")

    def test_where_there_is_no_place_for_a_cache_a_thread_compiles(self, run):
        run(NO_PLACE_FOR_A_CACHE, "+avx2")
