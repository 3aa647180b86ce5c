"""What in the metadata of an array decides how its chunks are read, and what may change while others use it?

Shape, attributes and names of dimensions change under open handles, and those go on. Chunks, codecs, data type and fill
value do not: who knows others than the ones that are stored would read nonsense, or write it.
"""

import json
from typing import Final

_MAY_CHANGE: Final = ("shape", "attributes", "dimension_names", "consolidated_metadata")


def structure_of(document: bytes) -> bytes:
    """Return what a metadata document says of how chunks are stored, in one spelling; of no array, the document itself.

    Examples
    --------
    >>> before = b'{"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<f4"}'
    >>> structure_of(before) == structure_of(before.replace(b"[4]", b"[6]"))
    True
    >>> structure_of(before) == structure_of(before.replace(b"[2]", b"[3]"))
    False
    """
    try:
        described = json.loads(document)
        kept = {name: value for name, value in described.items() if name not in _MAY_CHANGE}
    except (ValueError, AttributeError, RecursionError):
        return document
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
