"""The public names are pinned, and naming them costs nothing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import zarrvec
from zarrvec import types

ROOT = Path(__file__).parents[2]


def test_names():
    assert zarrvec.__all__ == [
        "CommitInfo", "ZarrVecStore", "__version__", "append", "at", "branch", "diff", "history", "open_store",
        "register_array_accessor", "revert", "tag", "transaction",
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
