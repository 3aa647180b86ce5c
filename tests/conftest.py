"""How much Hypothesis explores, and on how many threads each test process computes.

Hypothesis tries new examples on a developer's machine, the same ones every time in CI. Name another profile with
``HYPOTHESIS_PROFILE=deep`` (before a release, after a change to the format or the engine) or with pytest's own
``--hypothesis-profile``; ``again`` is for a second run of the same tests, on the other line of zarr.

Where pytest-xdist has given each processor a process, faiss and numpy compute on one thread in each: their other threads would spin
on a processor that is taken, a third of all time of building small indexes.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a shared machine, a real S3 server and fsync make the time of one example meaningless.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("again", settings.get_profile("ci"), max_examples=25)
settings.register_profile("deep", settings.get_profile("dev"), max_examples=2_000)

if "PYTEST_XDIST_WORKER" in os.environ:  # before either is loaded; programs that tests start take it over
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="module")
def quick_builds() -> Iterator[None]:
    """Let small indexes be calibrated on 100 rows, in a sixth of the time, where recall is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zarrvec.search.build.CALIBRATION_ROWS", 100)
        yield


@pytest.fixture(params=[False, True], ids=["numpy", "compiled"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether compiled code is there: once it isn't, as in a new process, and once it is."""
    from zarrvec.search import kernels, loading  # loads numpy: not before its threads are told

    monkeypatch.setattr(kernels, "_loader", loading.Loader())
    if request.param and not kernels.compile_now():
        pytest.skip("numba is not installed")
    return bool(request.param)


@pytest.fixture
def numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numpy compute everything, as if numba were not installed."""
    from zarrvec.search import kernels, loading  # as above

    loader = loading.Loader()
    loader.missing = True
    monkeypatch.setattr(kernels, "_loader", loader)
