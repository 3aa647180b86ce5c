"""The public names are pinned, and naming them costs nothing."""

import inspect
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import zarrvec
from zarrvec import types
from zarrvec.search.accessor import VectorAccessor
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.hits import Hits, SearchStats

ROOT = Path(__file__).parents[2]


def test_names():
    assert zarrvec.__all__ == [
        "Access", "CommitInfo", "Plan", "Rechunked", "Replanned", "Trace", "ZarrVecStore", "__version__", "append", "at",
        "branch", "diff", "history", "open_store", "plan", "rechunk", "register_array_accessor", "replan", "revert", "tag",
        "trace", "transaction",
    ]  # fmt: skip
    assert all(getattr(zarrvec, name) is not None for name in zarrvec.__all__)
    assert dir(zarrvec) == sorted(zarrvec.__all__)


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert zarrvec.__version__ == types.VERSION == project["version"]


def test_the_package_is_light():
    code = "import sys, zarrvec; print([name for name in ('zarr', 'numpy', 'obstore', 'fsspec') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_vec_is_there_without_an_import():
    code = "import zarr, numpy; print(zarr.array(numpy.eye(3, dtype='f4')).vec.search([0, 0, 1], 1).ids.tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2]"


def test_what_vec_offers():
    offered = {
        name: getattr(VectorAccessor, name) for name in dir(VectorAccessor) if not name.startswith("_")
    }
    assert {
        name: list(inspect.signature(method).parameters)[1:]
        for name, method in offered.items()
        if callable(method)
    } == {
        "append": ["vectors"],
        "build_index": ["metric", "nlist", "bits", "queries", "memory_bytes", "seed", "spool", "client", "progress"],
        "delete": ["ids"],
        "drop_index": [],
        "explain": [
            "queries", "k", "metric", "recall", "exact", "where", "nprobe", "bits", "rerank", "memory_bytes",
            "latency_seconds", "bytes_per_second",
        ],
        "info": [],
        "optimize": ["progress"],
        "search": [
            "queries", "k", "metric", "recall", "exact", "where", "nprobe", "bits", "rerank", "include", "memory_bytes",
        ],
    }  # fmt: skip
    assert [name for name, method in offered.items() if not callable(method)] == ["metric"]


def test_what_a_search_returns():
    assert [field.name for field in fields(Hits)] == [
        "ids", "distances", "indices", "vectors", "columns", "stats",
    ]  # fmt: skip
    assert [field.name for field in fields(SearchStats)] == [
        "vectors", "bytes_decoded", "chunks_read", "seconds", "requests", "bytes_read", "rounds", "nprobe", "reranked",
        "lists", "entries", "unlike", "part_read", "stages",
    ]  # fmt: skip


def test_caches_of_searches_have_limits_that_can_be_set():
    assert (LISTS.limit_bytes, ROOTS.limit_bytes) == (512 << 20, 256 << 20)


WITHOUT_EXTRA = """
import sys
import zarrvec.errors
sys.modules["faiss"] = sys.modules["numba"] = None
import numpy, zarr
array = zarr.create_array({}, data=numpy.eye(3, dtype="f4"))
print(array.vec.search([0, 0, 1], 1).ids.tolist())
try:
    array.vec.build_index()
except zarrvec.errors.OptionError as error:
    print(error)
"""


def test_without_the_extra_search_is_exact_and_a_build_says_what_is_missing():
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, check=True)
    hits, error = done.stdout.splitlines()
    assert hits == "[2]"
    assert "pip install 'zarrvec[search]'" in error


def test_the_extra_is_loaded_when_it_is_needed():
    code = (
        "import sys, zarr, numpy; array = zarr.array(numpy.eye(3, dtype='f4')); array.vec.search([0, 0, 1], 1)\n"
        "print([name for name in ('faiss', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
