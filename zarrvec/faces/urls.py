"""Which filesystem does a URL name, whether or not it says ``zarrvec``?"""

from typing import Any

from fsspec.core import url_to_fs

from zarrvec.errors import OptionError
from zarrvec.faces.filesystem import ZarrVecFileSystem


def open_filesystem(
    url: str, storage_options: dict[str, Any] | None, options: dict[str, Any]
) -> tuple[ZarrVecFileSystem, str]:
    """Open the filesystem that a URL names; return it and the path in it.

    Raises
    ------
    OptionError
        If options stand under a name that is no storage of the URL.
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
    fs, path = url_to_fs(url, **chosen)
    return fs, path
