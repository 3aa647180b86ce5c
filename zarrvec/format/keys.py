"""Which keys are allowed, and in which order do they stand?

Neighbours in an array are neighbours in this order, so that a range of chunks is a range of rows; metadata documents
stand before all other keys, so that those of many arrays are read together.

Source: ``specs/format.md``, section "Key order"; ``specs/decisions/0001-metadata-first.md``.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from zarrvec.errors import KeyNameError

MAX_KEY_BYTES: Final = 1024
METADATA_NAMES: Final = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_METADATA_CLASS: Final = b"\x01"
_OTHER_CLASS: Final = b"\x02"
_SEPARATOR: Final = b"\x00"
_DIGITS: Final = re.compile(r"([0-9]+)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def check_key(key: str) -> str:
    """Return the key if it may be stored.

    Raises
    ------
    KeyNameError
        If it is empty, longer than 1,024 bytes in UTF-8, has an empty, ``.`` or ``..`` segment or a control character.

    Examples
    --------
    >>> check_key("images/c/0/1")
    'images/c/0/1'
    """
    problem = None
    if not key:
        problem = "is empty"
    elif len(key) > MAX_KEY_BYTES or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        problem = f"has {len(key)} characters; at most {MAX_KEY_BYTES} bytes are allowed"
    elif _CONTROL.search(key):
        problem = "has a control character"
    else:
        segments = key.split("/")
        if "" in segments:
            problem = "has an empty segment (a leading, trailing or double slash)"
        elif "." in segments or ".." in segments:
            problem = "has a segment '.' or '..'"
        elif not key.isascii() and any("\ud800" <= char <= "\udfff" for char in key):
            problem = "can't be written as UTF-8"
    if problem is not None:
        shown = key if len(key) <= 80 else key[:77] + "..."
        raise KeyNameError(
            f"Key {shown!r} {problem}. Expected path segments joined by '/', such as 'images/c/0/1'."
        )
    return key


def first_bad_key(keys: Sequence[str]) -> str | None:
    """Return the first key that `check_key` refuses, looking at all of them at once.

    Examples
    --------
    >>> first_bad_key(["a/b", "a/../b"])
    'a/../b'
    """
    joined = "/" + "/".join(keys) + "/"  # the segments of the keys are the segments of all of them joined
    if not keys or not ("//" in joined or "/./" in joined or "/../" in joined or _CONTROL.search(joined)):
        return None
    for key in keys:
        try:
            check_key(key)
        except KeyNameError:
            return key
    return None


def is_metadata(key: str) -> bool:
    """Return whether the key names a Zarr metadata document.

    Examples
    --------
    >>> is_metadata("images/zarr.json"), is_metadata("images/c/0")
    (True, False)
    """
    return key.rpartition("/")[2] in METADATA_NAMES


@lru_cache(maxsize=2048)  # about the keys of a delta
def sort_key(key: str) -> bytes:
    """Return bytes whose order is the order of keys.

    Examples
    --------
    >>> sorted(["a/c/10", "a/c/9", "a/zarr.json", "a-b/c/0", "a/c/9/1"], key=sort_key)
    ['a/zarr.json', 'a/c/9', 'a/c/9/1', 'a/c/10', 'a-b/c/0']
    """
    folder, _, name = key.rpartition("/")
    head = _METADATA_CLASS if name in METADATA_NAMES else _OTHER_CLASS
    if folder:
        head += _folder_bytes(folder)
    return head + _segment_bytes(name)


def prefix_ranges(prefix: str) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Return the two half-open ranges of `sort_key` that hold all keys below a prefix.

    Parameters
    ----------
    prefix
        Path without trailing slash; empty for all keys.
    """
    if not prefix:
        return (_METADATA_CLASS, _OTHER_CLASS), (_OTHER_CLASS, b"\x03")
    start = _folder_bytes(prefix)
    end = start[:-1] + b"\x01"
    return (_METADATA_CLASS + start, _METADATA_CLASS + end), (_OTHER_CLASS + start, _OTHER_CLASS + end)


def is_below(key: str, prefix: str) -> bool:
    """Return whether a key lies below a prefix (given without trailing slash).

    Examples
    --------
    >>> is_below("a/b", "a"), is_below("ab", "a"), is_below("ab", "")
    (True, False, True)
    """
    return not prefix or key.startswith(prefix + "/")


@lru_cache(maxsize=4096)
def _folder_bytes(folder: str) -> bytes:
    above, _, name = folder.rpartition("/")
    return _shared_bytes(above) + _segment_bytes(name) + _SEPARATOR


@lru_cache(maxsize=1024)
def _shared_bytes(path: str) -> bytes:
    """Encode what many folders have above them: all of ``c/0``, ``c/1``, ... have ``c``."""
    return b"".join([_inner_bytes(segment) for segment in path.split("/")]) if path else b""


@lru_cache(maxsize=4096)
def _inner_bytes(segment: str) -> bytes:
    return _segment_bytes(segment) + _SEPARATOR


def _segment_bytes(segment: str) -> bytes:
    """Encode one path segment: runs of digits compare as integers, at the place of the character '0'."""
    if segment.isdigit() and segment.isascii():
        return _digits_bytes(segment)
    parts = _DIGITS.split(segment)
    return b"".join(
        _digits_bytes(part) if index & 1 else part.encode() for index, part in enumerate(parts) if part
    )


def _digits_bytes(digits: str) -> bytes:
    significant = digits.lstrip("0")
    zeros = len(digits) - len(significant)
    return b"0" + len(significant).to_bytes(2, "big") + significant.encode() + zeros.to_bytes(2, "big")
