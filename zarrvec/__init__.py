"""Zarr stores on object storage: packed, atomic, versioned, searchable. ``zarr.open("zarrvec::s3://bucket/data.zarr")``."""

from typing import TYPE_CHECKING, Any

from zarrvec.types import VERSION

if TYPE_CHECKING:
    from zarrvec.adapt.advice import Replanned
    from zarrvec.adapt.rechunk import Rechunked, rechunk
    from zarrvec.adapt.replan import replan
    from zarrvec.faces.accessors import register_array_accessor
    from zarrvec.faces.store import ZarrVecStore
    from zarrvec.faces.targets import open_store
    from zarrvec.faces.tracing import Trace, trace
    from zarrvec.faces.versions import CommitInfo, at, branch, diff, history, revert, tag
    from zarrvec.faces.writing import append, transaction
    from zarrvec.planner.access import Access
    from zarrvec.planner.plan import Plan
    from zarrvec.planner.planning import plan

__version__ = VERSION

__all__ = [
    "Access",
    "CommitInfo",
    "Plan",
    "Rechunked",
    "Replanned",
    "Trace",
    "ZarrVecStore",
    "__version__",
    "append",
    "at",
    "branch",
    "diff",
    "history",
    "open_store",
    "plan",
    "rechunk",
    "register_array_accessor",
    "replan",
    "revert",
    "tag",
    "trace",
    "transaction",
]

_HOMES = {
    "Access": "zarrvec.planner.access",
    "Plan": "zarrvec.planner.plan",
    "Rechunked": "zarrvec.adapt.rechunk",
    "Replanned": "zarrvec.adapt.advice",
    "Trace": "zarrvec.faces.tracing",
    "plan": "zarrvec.planner.planning",
    "ZarrVecStore": "zarrvec.faces.store",
    "open_store": "zarrvec.faces.targets",
    "rechunk": "zarrvec.adapt.rechunk",
    "register_array_accessor": "zarrvec.faces.accessors",
    "replan": "zarrvec.adapt.replan",
    "trace": "zarrvec.faces.tracing",
    "append": "zarrvec.faces.writing",
    "transaction": "zarrvec.faces.writing",
}


def __getattr__(name: str) -> Any:
    """Load public names when they are first used: pytest and fsspec import the package just to look."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_HOMES.get(name, "zarrvec.faces.versions")), name)
    raise AttributeError(f"module 'zarrvec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
