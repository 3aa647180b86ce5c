"""Where is the group of an index, if its array was opened as the root of a plain store? Beside the array, where it is in a group.

One array has one index, by whichever way it was opened: as a member of its group, or by a URL of its own. Source:
``specs/vector-index.md``, section "Group".
"""

import asyncio
import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ObjectStore, WrapperStore

from zarrvec.engine.traffic import Traffic
from zarrvec.search.sources import Plain, Want

_NOT_ALLOWED: Final = (PermissionError, PermissionDeniedError, UnauthenticatedError)
"""What a store raises if one may not look above its root."""
_OF_GROUPS: Final = ("zarr.json", ".zgroup")
"""Metadata documents of groups."""


class Found(NamedTuple):
    """Where the index of an array belongs, and what was read to find out."""

    is_beside: bool
    """Whether it lies beside the array, not in it."""
    document: bytes | None
    """Metadata document of its group; None if there is none yet."""


class Above(NamedTuple):
    """The store that begins one level higher."""

    store: Store
    """It."""
    name: str
    """What the root of the lower store is called there."""


def above(store: Store) -> Above | None:
    """Return the store that begins one level above the root of a store; None if none can be named.

    Examples
    --------
    >>> from zarr.storage import LocalStore, MemoryStore
    >>> above(LocalStore("/x/data.zarr/vectors"))
    Above(store=LocalStore('file:///x/data.zarr'), name='vectors')
    >>> above(MemoryStore())
    """
    match store:
        case WrapperStore():
            return _above_wrapped(store)
        case LocalStore():
            root = Path(os.path.abspath(store.root))  # noqa: PTH100 - follows no links, but '..'
            return _moved(store, "root", root.parent, root.name)
        case FsspecStore():
            parent, _, name = store.path.rstrip("/").rpartition("/")
            return _moved(store, "path", parent, name) if parent.strip("/:") else None
        case ObjectStore():
            return _above_objects(store)
    return None


def _above_wrapped(store: WrapperStore[Any]) -> Above | None:
    inner = above(store._store)
    try:
        return None if inner is None else Above(store._with_store(inner.store), inner.name)
    except TypeError:  # it can't be made from a store alone
        return None


def _moved(store: Store, attribute: str, parent: Any, name: str) -> Above | None:
    if not name:
        return None
    moved = copy.copy(store)
    setattr(moved, attribute, parent)
    return Above(moved, name)


def _above_objects(store: ObjectStore[Any]) -> Above | None:
    """Make obstore's store anew, as when it is pickled, with a shorter prefix."""
    inner = store.store
    if not hasattr(inner, "__getnewargs_ex__"):
        return None
    args, options = inner.__getnewargs_ex__()
    prefix = str(getattr(inner, "prefix", None) or "").strip("/")
    parent, _, name = prefix.rpartition("/")
    if not name:
        return None
    if "prefix" in options:
        options = {**options, "prefix": parent or None}
    elif args and isinstance(args[0], Path):
        args = (args[0].parent, *args[1:])
    else:
        return None
    return Above(ObjectStore(type(inner)(*args, **options), read_only=store.read_only), name)


def find(inside: Plain, path: str, higher: Above, path_above: str) -> tuple[Found, Traffic]:
    """Find where the index of an array belongs that is the root of a store, in one wave of requests, or two without an index.

    Parameters
    ----------
    inside, path
        The store, and where an index in the array is there.
    higher, path_above
        The store above, and where an index beside the array is there.
    """
    outside, traffic = Plain(store=higher.store), Traffic(rounds=1)

    async def look() -> Found:
        (inner,), (outer,) = await asyncio.gather(
            inside.fetch([Want(f"{path}/zarr.json")], traffic),
            _allowed(outside, [f"{path_above}/zarr.json"], traffic),
        )
        if outer is not None:
            return Found(is_beside=True, document=bytes(outer))
        if inner is not None:
            return Found(is_beside=False, document=bytes(inner))
        traffic.rounds += 1
        return Found(is_beside=is_group(*await _allowed(outside, _OF_GROUPS, traffic)), document=None)

    return sync(look()), traffic


async def _allowed(source: Plain, keys: Sequence[str], traffic: Traffic) -> list[memoryview | None]:
    """Read values; None too if one may not."""
    try:
        return await source.fetch([Want(key) for key in keys], traffic)
    except _NOT_ALLOWED:
        return [None] * len(keys)


def is_group(document: bytes | memoryview | None, old_document: bytes | memoryview | None) -> bool:
    """Return whether what lies at a path is a group, by its documents of format 3 and 2.

    Examples
    --------
    >>> is_group(b'{"node_type": "group"}', None), is_group(None, b'{"zarr_format": 2}'), is_group(b"[]", None)
    (True, True, False)
    """
    if old_document is not None:
        return True
    try:
        described = json.loads(bytes(document or b"{}"))
    except ValueError:
        return False
    return isinstance(described, dict) and described.get("node_type") == "group"
