"""Which repository, and which path in it, stands behind a URL, a store, a group or an array?"""

from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, StorePath

from zarrvec.errors import OptionError
from zarrvec.faces.filesystem import ZarrVecFileSystem
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.urls import open_filesystem
from zarrvec.repository import Repository


def open_store(
    url: str, storage_options: dict[str, Any] | None = None, *, read_only: bool = False, **options: Any
) -> ZarrVecStore:
    """Open a native zarr store.

    Parameters
    ----------
    url
        ``zarrvec::<any fsspec URL>``, ``zarrvec://<local path>``, or either without the ``zarrvec`` part.
    storage_options
        As for `zarr.open`: options of the inner storage under its own name, ours under ``zarrvec``.
    read_only
        Whether writes are refused.
    **options
        Our options, as keywords: ``branch``, ``at``, ``max_staleness``, ``backend``, ``pack_bytes``,
        ``unsafe_single_writer``, ``sync``, ``trace``.

    Returns
    -------
    ZarrVecStore
        Nothing is read before it is used.

    Raises
    ------
    OptionError
        If an option is unknown.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = zarrvec.open_store(folder + "/data.zarr")
    ...     zarr.create_group(store).create_array("x", data=np.array([1, 2])).shape
    (2,)
    """
    fs, path = open_filesystem(url, storage_options, options)
    return ZarrVecStore(fs.repository, fs.key_of(path), read_only=read_only)


def repository_of(target: Any, storage_options: dict[str, Any] | None = None) -> tuple[Repository, str]:
    """Find the handle behind something that a user holds.

    Parameters
    ----------
    target
        A URL, a `zarr.Array` or `zarr.Group`, a zarr store or store path, or our filesystem.
    storage_options
        For a URL.

    Returns
    -------
    tuple of Repository and str
        The handle, and the path inside its store.

    Raises
    ------
    OptionError
        If it is not on a zarrvec store.
    """
    if isinstance(target, str):
        fs, path = open_filesystem(target, storage_options, {})
        return fs.repository, fs.key_of(path)
    if isinstance(target, Repository):
        return target, ""
    path = ""
    if isinstance(target, zarr.Array | zarr.Group) or hasattr(target, "store_path"):
        target = target.store_path
    if isinstance(target, StorePath):
        target, path = target.store, target.path
    found = repository_and_key(target, path)
    if found is None:
        raise OptionError(
            f"{target!r} is not on a zarrvec store; expected a zarrvec URL, or a store, group or array opened from one."
        )
    return found


def repository_and_key(store: Store | ZarrVecFileSystem | object, path: str) -> tuple[Repository, str] | None:
    """Find the handle behind a zarr store and what a path in the store is called there; None if it is not ours."""
    if isinstance(store, ZarrVecStore):
        return store.repository, store.key_of(path)
    if isinstance(store, FsspecStore) and isinstance(store.fs, ZarrVecFileSystem):
        root = store.path.rstrip("/")
        return store.fs.repository, store.fs.key_of(f"{root}/{path}" if root else path)
    if isinstance(store, ZarrVecFileSystem):
        return store.repository, store.key_of(path) if path else ""
    return None
