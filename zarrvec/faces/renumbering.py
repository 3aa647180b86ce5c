"""What in a store goes by the numbers of its commits, and must be told anew where values get others?

The coverage of a vector index does: a copy in another store, or a past version that is made the newest one, has the same
values under other numbers, and some may be equal by accident. Source: ``specs/vector-index.md``, section "Coverage".
"""

import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from zarrvec.types import Entry

INDEX_ATTRIBUTE: Final = "zarrvec_index"
"""Attribute of the group of a vector index that holds its head."""
INDEX_DOCUMENT: Final = ".vec/zarr.json"
"""How the key of the metadata document of such a group ends."""
COVERAGE_VALUE: Final = ".vec/coverage/c/0"
"""How the key of its coverage ends."""
STAGED: Final = 2**64 - 1
"""Generation, in a coverage, of what the commit of this coverage wrote."""
UNCOVERED: Final = 2**64 - 2
"""Coverage of a unit that holds rows which are not in the lists as they are."""


class Index(NamedTuple):
    """Keys of what tells which rows an index covers."""

    document: str
    """Metadata document of its group."""
    coverage: str
    """Value of its coverage."""
    array: str
    """Metadata document of its array, of format 3 or 2."""


def indexes_among(entries: Mapping[str, Entry]) -> Iterator[Index]:
    """Yield each index that has a coverage, and whose array is there.

    Examples
    --------
    >>> [*indexes_among(dict.fromkeys(["a.vec/zarr.json", "a.vec/coverage/c/0", "a/.zarray"], Entry(1)))]
    [Index(document='a.vec/zarr.json', coverage='a.vec/coverage/c/0', array='a/.zarray')]
    """
    for coverage in entries:
        if not coverage.endswith(COVERAGE_VALUE):
            continue
        path = coverage.removesuffix(COVERAGE_VALUE)
        folder = f"{path}/" if path else ""
        document = f"{path}{INDEX_DOCUMENT}"
        array = next(
            (f"{folder}{name}" for name in ("zarr.json", ".zarray") if f"{folder}{name}" in entries), None
        )
        if document in entries and array is not None:
            yield Index(document, coverage, array)


def with_coverage(
    index: Index,
    values: Mapping[str, bytes],
    entries: Mapping[str, Entry],
    is_rewritten: Callable[[str], bool],
) -> dict[str, bytes]:
    """Return document and coverage of an index for a commit that writes the same values under its own number.

    Parameters
    ----------
    index
        As it is where the values come from.
    values
        Of its three keys, there.
    entries
        Of all keys, there.
    is_rewritten
        Whether the commit writes a key that is there. One that it doesn't write must have, where the commit lands, the
        generation that it has where the values come from; else it counts as changed, which is right too.

    Returns
    -------
    dict
        By key; the index covers the rows that it covered. One whose head or array can't be read covers none. Nothing if
        none of it is rewritten.
    """
    try:
        described = msgspec.json.decode(values[index.document])
        grid = described["attributes"][INDEX_ATTRIBUTE]["grid"]
        described["attributes"][INDEX_ATTRIBUTE]["revision"] = _revision()
        told = np.frombuffer(values[index.coverage], "<u8")
        if not grid or math.prod(grid) != len(told):
            return {index.document: without_coverage(values[index.document])}
        keys = [*_unit_keys(index.array, msgspec.json.decode(values[index.array]), grid)]
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError, ValueError):
        return {index.document: without_coverage(values[index.document])}
    units = [entry if (entry := entries.get(key)) and not entry.is_deleted else None for key in keys]
    now = np.array([0 if unit is None else unit.generation for unit in units], np.uint64)
    rewritten = np.array(
        [unit is not None and is_rewritten(key) for key, unit in zip(keys, units, strict=True)], np.bool_
    )
    if not rewritten.any() and not is_rewritten(index.coverage):
        return {}
    covered = np.where(told == STAGED, np.uint64(entries[index.coverage].generation), told) == now
    coverage = np.where(covered, np.where(rewritten, np.uint64(STAGED), now), np.uint64(UNCOVERED))
    return {index.document: msgspec.json.encode(described), index.coverage: coverage.astype("<u8").tobytes()}


def _unit_keys(document: str, array: Any, grid: list[int]) -> Iterator[str]:
    """Yield the keys of the units of an array, in C order.

    Examples
    --------
    >>> encoding = {"name": "default", "configuration": {"separator": "/"}}
    >>> [*_unit_keys("a/zarr.json", {"chunk_key_encoding": encoding}, [1, 2])]
    ['a/c/0/0', 'a/c/0/1']
    >>> [*_unit_keys(".zarray", {"zarr_format": 2}, [2, 1])]
    ['0.0', '1.0']
    """
    folder = document.removesuffix("zarr.json").removesuffix(".zarray")
    if document.endswith(".zarray"):
        begin, separator = "", array.get("dimension_separator") or "."
    else:
        encoding = array["chunk_key_encoding"]
        begin, default = {"default": ("c", "/"), "v2": ("", ".")}[encoding["name"]]
        separator = encoding.get("configuration", {}).get("separator", default)
    for position in np.ndindex(*grid):
        yield folder + separator.join([*([begin] if begin else []), *map(str, position)])


def without_coverage(document: bytes) -> bytes:
    """Return the metadata document of an index that covers no row; other documents come back as they are.

    Examples
    --------
    >>> document = b'{"attributes": {"zarrvec_index": {"grid": [4, 1], "revision": "a1"}}}'
    >>> head = msgspec.json.decode(without_coverage(document))["attributes"]["zarrvec_index"]
    >>> head["grid"], head["revision"] == "a1", without_coverage(b"no document")
    ([], False, b'no document')
    """
    try:
        described = msgspec.json.decode(document)
        described["attributes"][INDEX_ATTRIBUTE].update(grid=[], revision=_revision())
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return document
    return msgspec.json.encode(described)


def _revision() -> str:
    return secrets.token_hex(8)
