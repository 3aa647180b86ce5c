"""Does any sequence of operations leave on our stores what it leaves on a dict, and on zarr's memory store?

zarr's own state machines, on the native store and on zarr's store over our filesystem.
"""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from zarr.abc.store import Store, SuffixByteRequest
from zarr.storage import FsspecStore
from zarr.testing import stateful
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.strategies import key_ranges, keys

from zarrvec import open_store

FACES: dict[str, Callable[[str], Store]] = {"native": open_store, "filesystem": FsspecStore.from_url}

# Data types without a specification for format 3 are among those that zarr draws.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")


class FsspecStoreStateMachine(ZarrStoreStateMachine):
    """zarr's machine, less what is untrue of zarr's `FsspecStore` over any filesystem."""

    @rule(key=keys())
    def exists(self, key: str) -> None:
        """Ask for keys only: `FsspecStore.exists` says yes to a folder too, since `fsspec.exists` does."""
        assume(not any(other.startswith(key + "/") for other in self.model))
        assert self.store.exists(key) == (key in self.model)


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return f"zarrvec://{tmp_path}/data.zarr"
    return f"zarrvec::memory://{uuid.uuid4().hex}"


def _run(machine: type, store: Store, *, examples: int, steps: int) -> None:
    start: Any = partial(machine, store)
    run_state_machine_as_test(
        start,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _fsspec_key_ranges(**drawn: Any) -> SearchStrategy[Any]:
    """Draw what zarr's machine does, less the last 0 bytes: `FsspecStore` asks fsspec for those from -0 on, which are all."""
    nothing = SuffixByteRequest(0)
    return key_ranges(**drawn).filter(lambda asked: all(part != nothing for _, part in asked))


@pytest.mark.parametrize("face", FACES)
def test_keys(face: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = ZarrStoreStateMachine
    if face == "filesystem":
        machine = FsspecStoreStateMachine
        monkeypatch.setattr(stateful, "key_ranges", _fsspec_key_ranges)
    _run(machine, FACES[face](url), examples=8, steps=20)


@pytest.mark.parametrize("face", FACES)
def test_hierarchy(face: str, url: str) -> None:
    _run(ZarrHierarchyStateMachine, FACES[face](url), examples=4, steps=15)
