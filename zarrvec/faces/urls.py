"""Which filesystem does a URL name, whether or not it says ``zarrvec``?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs

from zarrvec.errors import OptionError, ZarrVecError
from zarrvec.faces.filesystem import ZarrVecFileSystem


def open_filesystem(
    url: str, storage_options: dict[str, Any] | None, options: dict[str, Any]
) -> tuple[ZarrVecFileSystem, str]:
    """Open the filesystem that a URL names; return it and the path in it.

    Raises
    ------
    OptionError
        If options stand under a name that is no storage of the URL, or fsspec knows no such storage.
    """
    if not url.startswith("zarrvec:"):
        url = f"zarrvec::{url}" if "://" in url or "::" in url else f"zarrvec://{url}"
    chosen = dict(storage_options or {})
    chosen["zarrvec"] = {**chosen.get("zarrvec", {}), **options}
    inner = url.partition("::")[2].partition("://")[0]
    stray = sorted(set(chosen) - {"zarrvec", inner} - {"asynchronous", "loop"})
    if stray:
        raise OptionError(
            f"storage_options has {stray[0]!r}; expected options under the names of the storages, "
            f"such as {{{inner or 'zarrvec'!r}: {{{stray[0]!r}: ...}}}}."
        )
    with unknown_storages_named(url):
        fs, path = url_to_fs(url, **chosen)
    return fs, path


@contextmanager
def unknown_storages_named(url: str) -> Iterator[None]:
    """Raise what fsspec says of a URL that it can't open as an error of ours.

    Raises
    ------
    OptionError
        If fsspec knows no such storage, or a package for it is not installed.

    Examples
    --------
    >>> with unknown_storages_named("foo://x"):
    ...     url_to_fs("foo://x")
    Traceback (most recent call last):
        ...
    zarrvec.errors.OptionError: foo://x: Protocol not known: foo. Expected a path, or the URL of a storage that fsspec knows...
    """
    try:
        yield
    except ZarrVecError:
        raise
    except (ValueError, ImportError) as error:
        raise OptionError(
            f"{url}: {error}. Expected a path, or the URL of a storage that fsspec knows and whose package is installed, such as "
            "s3://bucket/data.zarr."
        ) from error
