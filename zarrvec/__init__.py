"""Zarr stores on object storage: packed, atomic, versioned, searchable. ``zarr.open("zarrvec::s3://bucket/data.zarr")``."""

from typing import TYPE_CHECKING, Any

from zarrvec.types import VERSION

if TYPE_CHECKING:
    from zarrvec.faces.accessors import register_array_accessor
    from zarrvec.faces.api import CommitInfo, append, at, branch, diff, history, revert, tag, transaction
    from zarrvec.faces.store import ZarrVecStore
    from zarrvec.faces.targets import open_store
    from zarrvec.planner.access import Access
    from zarrvec.planner.plan import Plan
    from zarrvec.planner.planning import plan

__version__ = VERSION

__all__ = [
    "Access",
    "CommitInfo",
    "Plan",
    "ZarrVecStore",
    "__version__",
    "append",
    "at",
    "branch",
    "diff",
    "history",
    "open_store",
    "plan",
    "register_array_accessor",
    "revert",
    "tag",
    "transaction",
]

_HOMES = {
    "Access": "zarrvec.planner.access",
    "Plan": "zarrvec.planner.plan",
    "plan": "zarrvec.planner.planning",
    "ZarrVecStore": "zarrvec.faces.store",
    "open_store": "zarrvec.faces.targets",
    "register_array_accessor": "zarrvec.faces.accessors",
}


def __getattr__(name: str) -> Any:
    """Load public names when they are first used: pytest and fsspec import the package just to look."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_HOMES.get(name, "zarrvec.faces.api")), name)
    raise AttributeError(f"module 'zarrvec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
