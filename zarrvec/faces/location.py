"""Which store does a URL or a filesystem's arguments name, and which part of a path is the key?"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from zarrvec.engine.engine import Place
from zarrvec.errors import OptionError
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.repository import MAX_STALENESS_SECONDS, Repository

_DEFAULTS: dict[str, Any] = {
    "branch": "main",
    "at": None,
    "max_staleness": MAX_STALENESS_SECONDS,
    "backend": "obstore",
    "pack_bytes": PACK_BYTES,
    "unsafe_single_writer": False,
    "sync": False,
    "trace": True,
}
_INTERNAL = frozenset(
    {"asynchronous", "loop", "batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"}
)


class LocalPath(NamedTuple):
    """A local path, split into the store's root and the key inside it."""

    root: str
    """Absolute path of the store."""
    prefix: str
    """The part of the path, as it was written, that names the store."""


def split_local(path: str) -> LocalPath:
    """Find the store that a local path lies in: the nearest folder upwards that is one, else the path itself.

    Examples
    --------
    >>> split_local("/no/such/place").root
    '/no/such/place'
    """
    absolute = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - keeps symlinks and '..' as written
    given = path.rstrip("/")
    root = absolute
    while root not in ("/", "") and "/" in given.lstrip("/") + "/":
        if os.path.isdir(f"{root}/refs/heads"):  # noqa: PTH112
            return LocalPath(root, given)
        root, given = os.path.dirname(root), given.rpartition("/")[0]  # noqa: PTH120
        if not given:
            break
    return LocalPath(absolute, path.rstrip("/"))


def repository_from(
    fo: str | None,
    target_protocol: str | None,
    target_options: Mapping[str, Any] | None,
    root: str | None,
    options: Mapping[str, Any],
) -> Repository:
    """Make a handle from the arguments that fsspec gives a chained filesystem.

    Raises
    ------
    OptionError
        If an option is unknown or of the wrong type, or no place is named.
    """
    unknown = sorted(set(options) - _DEFAULTS.keys() - _INTERNAL)
    if unknown:
        raise OptionError(
            f"Unknown option {unknown[0]!r} for zarrvec; expected some of {', '.join(_DEFAULTS)}. Options of the inner "
            "storage go under its own name, as in storage_options={'s3': {'key': ...}, 'zarrvec': {'branch': 'main'}}."
        )
    chosen = {name: options.get(name, default) for name, default in _DEFAULTS.items()}
    for name in ("branch", "backend"):
        _check_type(name, chosen[name], str)
    for name in ("unsafe_single_writer", "sync", "trace"):
        _check_type(name, chosen[name], bool)
    _check_type("pack_bytes", chosen["pack_bytes"], int)
    if target_protocol is None and fo is None:
        if root is None:
            raise OptionError(
                "zarrvec: no place was named; expected 'zarrvec://path' or 'zarrvec::s3://bucket/path'."
            )
        target_protocol, fo = "file", root
    inner = {
        name: value for name, value in (target_options or {}).items() if name not in ("fo", "target_protocol")
    }
    if "target_options" in inner:
        raise OptionError(
            f"{target_protocol}://{fo}: zarrvec stands on one storage, not on a longer chain of URLs."
        )
    place = Place(
        protocol=target_protocol or "file",
        root=(fo or "").rstrip("/")
        if target_protocol not in ("file", "local", None)
        else os.path.abspath(fo or ""),  # noqa: PTH100
        options=dict(inner),
        branch=chosen["branch"],
        backend=chosen["backend"],
        pack_bytes=chosen["pack_bytes"],
        unsafe_single_writer=chosen["unsafe_single_writer"],
        sync=chosen["sync"],
    )
    return Repository(place, at=chosen["at"], max_staleness=chosen["max_staleness"], trace=chosen["trace"])


def _check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise OptionError(f"{name}={value!r}: expected {kind.__name__}, not {type(value).__name__}.")
