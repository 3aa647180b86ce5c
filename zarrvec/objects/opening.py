"""Which backend serves a URL?

A forked child whose parent has used obstore gets the fsspec backend: obstore hangs there for ever.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from zarrvec.errors import OptionError
from zarrvec.objects.fsspec_backend import FsspecObjects
from zarrvec.objects.local import LocalObjects
from zarrvec.objects.memory import shared_memory_objects
from zarrvec.objects.options import RETRIES, translate
from zarrvec.objects.protocol import Objects

LOCAL_PROTOCOLS: Final = frozenset({"file", "local"})
_FAST_PROTOCOLS: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})


class _Process:
    """Whether obstore can be used in this process."""

    obstore_used = False
    obstore_unsafe = False

    @classmethod
    def after_fork(cls) -> None:
        cls.obstore_unsafe = cls.obstore_unsafe or cls.obstore_used


os.register_at_fork(after_in_child=_Process.after_fork)


def open_objects(
    protocol: str, root: str, options: Mapping[str, Any], *, backend: str = "obstore", sync: bool = False
) -> Objects:
    """Open the object storage below a root. Call it inside the event loop that will use it.

    Parameters
    ----------
    protocol
        fsspec's name of the storage: ``s3``, ``file``, ``memory``, ...
    root
        Bucket and path, or local path.
    options
        Options in the spelling of that fsspec filesystem.
    backend
        ``obstore``, or ``fsspec`` to use the fsspec filesystem for remote storage.
    sync
        For local files: flush to the device before a write returns.

    Raises
    ------
    OptionError
        If an option is unknown or the root is not usable.
    """
    if backend not in ("obstore", "fsspec"):
        raise OptionError(f"backend={backend!r}: expected 'obstore' or 'fsspec'.")
    if protocol in LOCAL_PROTOCOLS:
        _refuse(protocol, options)
        return LocalObjects(root, sync=sync)
    if protocol == "memory":
        _refuse(protocol, options)
        return shared_memory_objects(root)
    name = f"{protocol}://{root}"
    if protocol in _FAST_PROTOCOLS:
        bucket, _, prefix = root.partition("/")
        if not bucket:
            raise OptionError(f"{name!r}: expected a bucket, as in '{protocol}://bucket/data.zarr'.")
        translation = translate(protocol, options)
        if backend == "obstore" and translation is not None and not _Process.obstore_unsafe:
            return _open_obstore(
                protocol, bucket, prefix.strip("/"), translation.config, translation.client_options, name
            )
    return FsspecObjects(protocol, root, dict(options), name=name)


def _open_obstore(
    protocol: str, bucket: str, prefix: str, config: dict[str, Any], client_options: dict[str, Any], name: str
) -> Objects:
    from datetime import timedelta

    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    from zarrvec.objects.obstore_backend import ObstoreObjects

    kind: Any = {"s3": S3Store, "s3a": S3Store, "gs": GCSStore, "gcs": GCSStore}.get(protocol, AzureStore)
    timeout = timedelta(seconds=RETRIES["retry_timeout"])
    common = {"prefix": prefix or None, "config": config, "client_options": client_options}
    _Process.obstore_used = True
    try:
        store = kind(bucket, **common, retry_config={**RETRIES, "retry_timeout": timeout})
    except (BaseError, TypeError, ValueError) as error:
        raise OptionError(f"{name}: obstore can't open it with these options: {error}") from error
    once = partial(kind, bucket, **common, retry_config={"max_retries": 0, "retry_timeout": timeout})
    return ObstoreObjects(store, once, name)


def _refuse(protocol: str, options: Mapping[str, Any]) -> None:
    unknown = sorted(
        set(options) - {"auto_mkdir", "asynchronous", "loop", "skip_instance_cache", "use_listings_cache"}
    )
    if unknown:
        raise OptionError(
            f"Unknown option {unknown[0]!r} for {protocol}; it takes none. "
            "Options of zarrvec itself go under the key 'zarrvec' of storage_options."
        )
