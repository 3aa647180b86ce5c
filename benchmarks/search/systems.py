"""Which systems are compared, and what does each have to be able to do?

A system's classes are imported in every worker before anything is timed, so their modules import nothing heavy: what a
system needs is imported before that, which is timed by itself.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.search.places import Place
from benchmarks.search.problem import K, Problem

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.generic]
Settings = Mapping[str, Any]


class Searcher(Protocol):
    """An open store, table or index."""

    def search(self, queries: Rows) -> Ids:
        """Return (q, K) row numbers for (q, d) queries; one query is not answered as a batch of many is."""
        ...

    def append(self, rows: Rows) -> None:
        """Add rows, whose numbers follow those that were there; when it returns, a new search finds them."""
        ...


class System(Protocol):
    """A way of keeping vectors on S3 and searching them."""

    modules: tuple[str, ...]
    """What a program that uses it imports first; what a search loads in addition is found out by trying."""

    def write(self, problem: Problem, place: Place) -> None:
        """Store the rows."""
        ...

    def build(self, problem: Problem, place: Place) -> None:
        """Make the index of the stored rows."""
        ...

    def open(self, problem: Problem, place: Place, settings: Settings) -> Searcher:
        """Open what was built, with the settings that decide recall and cost; `problem` gives metric and shape only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Settings that differ in one number, of which more gives a better recall."""

    grows: str
    """The name of that number."""
    values: tuple[int, ...]
    """Ascending."""
    fixed: Settings = field(default_factory=dict)
    """The other settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the comparison."""

    name: str
    """What ``--systems`` and the results call it."""
    label: str
    """What the table calls it."""
    system: str
    """The class, as ``module:name``."""
    arguments: Settings = field(default_factory=dict)
    """Its arguments."""
    built_by: str | None = None
    """The entry whose data and settings it uses, if not its own."""
    sweeps: tuple[Sweep, ...] = ()
    """Where its settings are looked for; none if it is exact or takes the recall itself."""
    exact: bool = False
    """Whether its recall is always 1, so that one row is enough."""
    takes_recall: bool = False
    """Whether it is told the recall that is wanted, as the setting ``recall``."""
    whole: bool = False
    """Whether a cold search reads everything, whatever the settings."""

    def make(self) -> System:
        """Return the system; nothing that it needs is imported yet."""
        module, name = self.system.split(":")
        system: System = getattr(importlib.import_module(module), name)(**self.arguments)
        return system


_PROBES = (
    *range(1, 9), *range(10, 25, 2), *range(28, 57, 4), *range(64, 129, 16), 160, 192, 256, 320, 384, 512, 768, 1024, 1536
)  # fmt: skip
_EFS = (10, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768)


def _refined(*factors: int) -> tuple[Sweep, ...]:
    return tuple(
        Sweep(grows="nprobes", values=_PROBES, fixed={"refine_factor": factor}) for factor in factors
    )


def _graph(*factors: int) -> tuple[Sweep, ...]:
    """Return sweeps over one partition, of which Lance makes one for each 2^20 rows; it refuses an ef below its k."""
    return tuple(
        Sweep(
            grows="ef",
            values=tuple(ef for ef in _EFS if ef >= K * factor),
            fixed={"nprobes": 1, "refine_factor": factor},
        )
        for factor in factors
    )


_LANCE = "benchmarks.search.lance:Lance"
_LANCE_SWEEPS: Mapping[str, Sequence[Sweep]] = {
    "IVF_PQ": _refined(2, 5, 10, 20),
    "IVF_RQ": _refined(2, 5, 10),
    "IVF_HNSW_SQ": _graph(0, 2),
}


def _lance(kind: str) -> tuple[Entry, Entry]:
    name = kind.lower()
    arguments = {"kind": kind}
    return (
        Entry(
            name=f"lance_{name}",
            label=f"LanceDB's engine (pylance) {kind}",
            system=_LANCE,
            arguments=arguments,
            sweeps=tuple(_LANCE_SWEEPS[kind]),
        ),
        Entry(
            name=f"lancedb_{name}",
            label=f"LanceDB {kind}",
            system="benchmarks.search.lance:LanceDB",
            arguments=arguments,
            built_by=f"lance_{name}",
        ),
    )


ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="zarrvec",
            label="zarrvec",
            system="benchmarks.search.ours:ZarrVec",
            takes_recall=True,
        ),
        Entry(
            name="zarrvec_plain_zarr",
            label="zarrvec, index on a plain zarr store",
            system="benchmarks.search.ours:ZarrVec",
            arguments={"plain": True},
            takes_recall=True,
        ),
        *_lance("IVF_PQ"),
        *_lance("IVF_RQ"),
        *_lance("IVF_HNSW_SQ"),
        Entry(
            name="zarr_numpy",
            label="brute force over plain zarr",
            system="benchmarks.search.peers:ZarrNumpy",
            exact=True,
            whole=True,
        ),
        Entry(
            name="faiss_ivf_sq8",
            label="faiss IVF-SQ8, downloaded whole",
            system="benchmarks.search.peers:Faiss",
            arguments={"kind": "IVF_SQ8"},
            sweeps=(Sweep(grows="nprobe", values=_PROBES),),
            whole=True,
        ),
        Entry(
            name="faiss_hnsw",
            label="faiss HNSW, downloaded whole",
            system="benchmarks.search.peers:Faiss",
            arguments={"kind": "HNSW"},
            sweeps=(Sweep(grows="efSearch", values=_EFS),),
            whole=True,
        ),
    )
}
