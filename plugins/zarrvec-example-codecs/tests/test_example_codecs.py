"""Is the plugin found by its entry point, is what it offers lossless and of use, and does plain zarr read it?"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from zarrvec.codecs.registry import candidates

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
TIMES = np.cumsum(np.random.default_rng(0).integers(9_900, 10_100, (2000, 4)), axis=0)
CHUNKS = (1000, 1)


def offered(dtype, chunks=CHUNKS):
    return {candidate.name: candidate for candidate in candidates(dtype, chunks)}


def store(path, candidate, zarr_format, data=TIMES):
    array = zarr.create_array(
        path,
        shape=data.shape,
        chunks=CHUNKS,
        dtype=data.dtype,
        zarr_format=zarr_format,
        **candidate.options(zarr_format),
    )
    array[:] = data
    return array


def test_it_is_offered_for_integers_alone():
    assert "delta-zstd" in offered("i8")
    assert "delta-zstd" in offered("u2")
    for dtype in ("f4", "u1", "bool", ">i8"):
        assert "delta-zstd" not in offered(dtype)
    assert "delta-zstd" not in offered("i8", (1, 1))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("jitter", "part"), [(100, 0.75), (0, 0.3)])
def test_it_beats_zstd_alone_on_timestamps(tmp_path, zarr_format, jitter, part):
    steps = np.random.default_rng(0).integers(10_000 - jitter, 10_001 + jitter, TIMES.shape)
    found = offered(steps.dtype)
    sizes = {
        name: store(tmp_path / name, found[name], zarr_format, np.cumsum(steps, axis=0)).nbytes_stored()
        for name in ("raw", "delta-zstd", "blosc-zstd-shuffle", "zstd-9")
    }
    ours = sizes.pop("delta-zstd")
    assert ours < part * min(sizes.values()), (ours, sizes)


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_it_is_lossless_where_differences_overflow(tmp_path, dtype, zarr_format):
    limits = np.iinfo(dtype)
    data = np.random.default_rng(1).integers(
        limits.min, limits.max, (1000, 2), dtype=np.dtype(dtype).newbyteorder("="), endpoint=True
    )
    array = store(tmp_path / "x", offered(dtype)["delta-zstd"], zarr_format, data)
    np.testing.assert_array_equal(array[:], data)


def test_zarr_reads_it_without_the_plugin(tmp_path):
    array = store(tmp_path / "x.zarr", offered(TIMES.dtype)["delta-zstd"], 3)
    assert not any("zarrvec" in codec.to_dict()["name"] for codec in array.metadata.codecs)
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); sys.modules['zarrvec_example_codecs'] = None\n"
        "import zarr; print(int(zarr.open_array(sys.argv[1], mode='r')[-1, 2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.zarr")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(TIMES[-1, 2]), done.stderr


def test_the_readme_runs(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = readme.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "times.zarr" / "zarr.json").exists()
