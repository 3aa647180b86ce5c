"""What in a store goes by the numbers of its commits, and must not be believed where values get others?

The coverage of a vector index does: a copy in another store, or a past version that is made the newest one, has the same
values under other numbers, and some may be equal by accident. Source: ``specs/vector-index.md``, section "Coverage".
"""

import secrets
from typing import Final

import msgspec

INDEX_ATTRIBUTE: Final = "zarrvec_index"
"""Attribute of the group of a vector index that holds its head."""
INDEX_DOCUMENT: Final = ".vec/zarr.json"
"""How the key of the metadata document of such a group ends."""
COVERAGE_VALUE: Final = ".vec/coverage/c/0"
"""How the key of its coverage ends."""


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
        described["attributes"][INDEX_ATTRIBUTE].update(grid=[], revision=secrets.token_hex(8))
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return document
    return msgspec.json.encode(described)
