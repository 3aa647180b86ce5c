"""What do the metadata of an array say once it has other chunks and codecs, and what do those say that repeat them?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import zarr
from zarr.types import AnyArray

from zarrvec.errors import OptionError
from zarrvec.layout.structure import structure_of

if TYPE_CHECKING:
    from zarrvec.planner.records import Codec

KEEP: Final = "keep"
"""Stands for what the array has."""
_OF_CHUNKS: Final = {2: ("chunks", "compressor", "filters"), 3: ("chunk_grid", "codecs")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Chunks and codecs, as `zarr.create_array` takes them; `KEEP` for what stays."""

    chunks: tuple[int, ...] | str = KEEP
    shards: tuple[int, ...] | str | None = KEEP
    filters: Any = KEEP
    compressors: Any = KEEP
    serializer: Any = KEEP
    codec: "Codec | None" = None
    """Of a plan; in place of the three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The metadata documents of an array, by the ends of their keys."""

    zarr_format: int
    main: dict[str, Any]
    """``zarr.json``, or ``.zarray``."""
    attributes: bytes | None
    """``.zattrs`` of format 2."""

    @property
    def name(self) -> str:
        """How the key of the main one ends."""
        return "zarr.json" if self.zarr_format == 3 else ".zarray"

    def encoded(self) -> dict[str, bytes]:
        """Return the documents as they are stored."""
        values = {self.name: _dumped(self.main)}
        if self.attributes is not None:
            values[".zattrs"] = self.attributes
        return values

    @property
    def structure(self) -> bytes:
        """What they say of how chunks are stored."""
        return structure_of(_dumped(self.main))

    @classmethod
    def of(cls, values: Mapping[str, bytes]) -> "Documents | None":
        """Read the documents of an array; None if there is none.

        Examples
        --------
        >>> Documents.of({".zarray": b'{"chunks": [2]}', ".zattrs": b"{}"}).main
        {'chunks': [2]}
        """
        if "zarr.json" in values:
            main = json.loads(values["zarr.json"])
            return (
                cls(zarr_format=3, main=main, attributes=None) if main.get("node_type") == "array" else None
            )
        if ".zarray" not in values:
            return None
        return cls(zarr_format=2, main=json.loads(values[".zarray"]), attributes=values.get(".zattrs"))


def rewritten(documents: Documents, array: AnyArray, wanted: Wanted) -> Documents:
    """Return the documents of an array that is stored as wanted; all else in them stays.

    Parameters
    ----------
    documents
        As they are.
    array
        The array that they describe.
    wanted
        Its new chunks and codecs.

    Raises
    ------
    OptionError
        If an array can't be stored so.
    """
    template = _template(array, wanted)
    main = dict(documents.main)
    for name in _OF_CHUNKS[documents.zarr_format]:
        main[name] = template[name]
    return Documents(zarr_format=documents.zarr_format, main=main, attributes=documents.attributes)


def _template(array: AnyArray, wanted: Wanted) -> dict[str, Any]:
    """Let zarr make the metadata of such an array, in memory."""
    zarr_format = array.metadata.zarr_format
    try:
        chunks: Any = array.chunks if wanted.chunks == KEEP else wanted.chunks
        shards: Any = array.shards if wanted.shards == KEEP else wanted.shards
    except NotImplementedError as error:  # a rectilinear grid, zarr 3.2 and later
        raise OptionError(
            f"array {array.name!r}: its chunks have many sizes; say chunks= and shards= (None for no shards)."
        ) from error
    if len(chunks) != array.ndim or not all(isinstance(length, int) and length > 0 for length in chunks):
        raise OptionError(
            f"chunks={chunks!r}: expected {array.ndim} positive numbers, one for each axis of {array.name!r} {array.shape}."
        )
    if zarr_format == 2 and shards is not None:
        raise OptionError(f"shards={shards!r}: array {array.name!r} is of Zarr format 2, which has none.")
    options = _codecs(array, wanted)
    if zarr_format == 3:
        options["shards"] = shards
    store: dict[str, Any] = {}
    try:
        zarr.create_array(
            store, shape=array.shape, dtype=data_type_of(array),
            chunks=chunks, fill_value=array.fill_value, zarr_format=zarr_format, **options,
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(
            f"array {array.name!r} can't be stored in chunks of {tuple(chunks)}, shards of {shards} and codecs {options}: {error}"
        ) from error
    described: dict[str, Any] = json.loads(store["zarr.json" if zarr_format == 3 else ".zarray"].to_bytes())
    return described


def data_type_of(array: AnyArray) -> Any:
    """Return zarr's own data type of an array."""
    metadata: Any = array.metadata
    return metadata.dtype if metadata.zarr_format == 2 else metadata.data_type


def _codecs(array: AnyArray, wanted: Wanted) -> dict[str, Any]:
    """Return the codecs as `zarr.create_array` takes them."""
    zarr_format = array.metadata.zarr_format
    if wanted.codec is not None:
        return {"filters": None, **wanted.codec.options(zarr_format)}

    def chosen(name: str) -> Any:
        asked = getattr(wanted, name)
        return asked if not (isinstance(asked, str) and asked == KEEP) else getattr(array, name)

    codecs = {name: chosen(name) or None for name in ("filters", "compressors")}
    if zarr_format == 3:
        codecs["serializer"] = chosen("serializer")
    return codecs


def repeated_in(group: bytes, name: str, path: Sequence[str], new: Mapping[str, Any]) -> bytes | None:
    """Return the document of a group above an array that repeats its metadata, with the new ones; None if it does not.

    Parameters
    ----------
    group
        ``zarr.json`` or ``.zmetadata`` of the group.
    name
        Of the array's main document.
    path
        Of the array below the group.
    new
        That document.

    Examples
    --------
    >>> group = b'{"consolidated_metadata": {"metadata": {"a/b": {"codecs": [1], "attributes": {"u": "m"}}}}}'
    >>> repeated_in(group, "zarr.json", ["a", "b"], {"codecs": [2], "chunk_grid": 3, "shape": [4], "attributes": {}})
    b'{"consolidated_metadata": {"metadata": {"a/b": {"codecs": [2], "attributes": {"u": "m"}, "chunk_grid": 3}}}}'
    """
    try:
        described = json.loads(group)
        if name == "zarr.json":
            known = described["consolidated_metadata"]["metadata"]["/".join(path)]
        else:
            known = described["metadata"]["/".join([*path, name])]
    except (ValueError, LookupError, TypeError):
        return None
    known.update({field: new[field] for field in _OF_CHUNKS[3 if name == "zarr.json" else 2]})
    return _dumped(described)


def group_document(zarr_format: int) -> tuple[str, bytes]:
    """Return the name and the document of a group without attributes."""
    if zarr_format == 3:
        return "zarr.json", _dumped({"zarr_format": 3, "node_type": "group", "attributes": {}})
    return ".zgroup", _dumped({"zarr_format": 2})


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()
