"""How much does a store hold, and where: objects, packs, live bytes, and the chunks of each array?"""

import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zarrvec.engine.engine import Engine
from zarrvec.engine.listing import list_entries
from zarrvec.engine.reader import Request
from zarrvec.engine.version import Version, View
from zarrvec.format.keys import is_metadata
from zarrvec.types import Entry

_ARRAY_DOCUMENTS = frozenset({"zarr.json", ".zarray"})
_DOCUMENTS_AT_ONCE = 1024


@dataclass(slots=True, kw_only=True)
class ArrayFigures:
    """What one array takes."""

    path: str
    """Path inside the store; empty for an array at its root."""
    zarr_format: int
    """2 or 3."""
    shape: tuple[int, ...]
    """As its metadata says."""
    data_type: str
    """As its metadata spells it."""
    chunks: tuple[int, ...]
    """Shape of what one key holds."""
    inner_chunks: tuple[int, ...] | None
    """Shape of the chunks inside it, if it is a shard."""
    possible: int
    """Chunks that the shape has room for."""
    stored: int = 0
    """Chunks that are stored."""
    stored_bytes: int = 0
    """Bytes of them."""
    inline: int = 0
    """Chunks held inline, in the manifest."""
    packs: int = 0
    """Packs that hold the others."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What one version takes, and what all objects of the store do."""

    name: str
    """Where the store is."""
    branch: str
    number: int
    """Of the commit."""
    versions: int
    """Commits that the branch still has."""
    branches: list[str]
    tags: list[str]
    objects: int
    """Objects of the whole store, all versions."""
    object_bytes: int
    packs: int
    """Packs of the whole store."""
    pack_bytes: int
    """Bytes of those objects."""
    version_packs: int
    """Packs that this version names."""
    version_pack_bytes: int
    """Bytes of values that were written into those."""
    live_bytes: int = 0
    """Bytes of values in packs that this version reaches."""
    inline_bytes: int = 0
    """Bytes of values held inline, in the manifest."""
    pages: int = 0
    """Manifest pages."""
    documents: int = 0
    """Metadata documents."""
    chunks: int = 0
    """All other keys."""
    arrays: list[ArrayFigures] = field(default_factory=list)


async def figures_of(engine: Engine, version: Version, prefix: str = "") -> Figures:
    """Count what a version holds.

    Parameters
    ----------
    engine
        Of the store.
    version
        Which version.
    prefix
        Only arrays and keys below it are counted; objects are those of the whole store.
    """
    root = await engine.reader.root(version)
    listed = await engine.objects.list("")
    branches, tags = await engine.refs()
    in_packs = [info.size for info in listed if info.path.startswith("packs/")]
    figures = Figures(
        name=engine.place.name,
        branch=engine.place.branch,
        number=version.number,
        versions=len(await engine.heads.numbers()),
        branches=branches,
        tags=tags,
        objects=len(listed),
        object_bytes=sum(info.size for info in listed),
        packs=len(in_packs),
        pack_bytes=sum(in_packs),
        version_packs=len(version.packs()),
        version_pack_bytes=sum(version.packs().values()),
        pages=len(root.pages),
    )
    view = View(version=version)
    arrays = {array.path: array async for array in _arrays(engine, view, prefix)}
    used: dict[str, set[bytes]] = {path: set() for path in arrays}
    async for key, entry in list_entries(engine.reader, view, prefix):
        if entry.pack:
            figures.live_bytes += entry.length
        else:
            figures.inline_bytes += entry.length
        if is_metadata(key):
            figures.documents += 1
            continue
        figures.chunks += 1
        path = _array_of(key, arrays)
        if path is not None:
            _count(arrays[path], used[path], entry)
    for path, array in arrays.items():
        array.packs = len(used[path])
    figures.arrays = sorted(arrays.values(), key=lambda array: array.path)
    return figures


def _count(array: ArrayFigures, packs: set[bytes], entry: Entry) -> None:
    array.stored += 1
    array.stored_bytes += entry.length
    if entry.pack:
        packs.add(entry.pack)
    else:
        array.inline += 1


def _array_of(key: str, arrays: dict[str, ArrayFigures]) -> str | None:
    """Return the array that a chunk's key lies below."""
    path = key
    while path:
        path = path.rpartition("/")[0]
        if path in arrays:
            return path
    return None


async def _arrays(engine: Engine, view: View, prefix: str) -> AsyncIterator[ArrayFigures]:
    """Read the metadata of all arrays below a prefix. Documents stand before all other keys."""
    root = await engine.reader.root(view.version)
    keys: list[str] = []
    for number in root.pages_below(prefix):
        if not is_metadata(root.pages[number].first):
            continue
        table = (await engine.reader.pages([root.pages[number]]))[0]
        keys += [key for key in table.keys if view.find(key) is None]
    keys += [key for key, entry in view.version.delta.entries.items() if not entry.is_deleted]
    inside = prefix + "/" if prefix else ""
    keys = [key for key in keys if key.startswith(inside) and key.rpartition("/")[2] in _ARRAY_DOCUMENTS]
    for start in range(0, len(keys), _DOCUMENTS_AT_ONCE):
        part = keys[start : start + _DOCUMENTS_AT_ONCE]
        for key, found in zip(part, await engine.read(view, [Request(key) for key in part]), strict=True):
            array = None if found is None else array_figures(key, found.data)
            if array is not None:
                yield array


def array_figures(key: str, document: bytes) -> ArrayFigures | None:
    """Read what a metadata document says of an array; None if it is not an array's, or can't be understood.

    Examples
    --------
    >>> document = b'{"zarr_format": 2, "shape": [10, 4], "chunks": [3, 4], "dtype": "<f4"}'
    >>> array_figures("a/.zarray", document).possible
    4
    """
    path, _, name = key.rpartition("/")
    try:
        metadata = json.loads(document)
        if name == ".zarray":
            shape, chunks = _numbers(metadata["shape"]), _numbers(metadata["chunks"])
            return _figures(path, 2, shape, metadata["dtype"], chunks, None)
        if metadata.get("node_type") != "array":
            return None
        shape = _numbers(metadata["shape"])
        chunks = _numbers(metadata["chunk_grid"]["configuration"].get("chunk_shape", shape))
        inner = None
        for codec in metadata["codecs"]:
            if isinstance(codec, dict) and codec["name"] == "sharding_indexed":
                inner = _numbers(codec["configuration"]["chunk_shape"])
        return _figures(path, 3, shape, metadata["data_type"], chunks, inner)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbers(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _figures(
    path: str,
    zarr_format: int,
    shape: tuple[int, ...],
    data_type: Any,
    chunks: tuple[int, ...],
    inner: tuple[int, ...] | None,
) -> ArrayFigures:
    spelled = data_type if isinstance(data_type, str) else json.dumps(data_type)
    if isinstance(data_type, dict) and "name" in data_type:
        spelled = str(data_type["name"])
    possible = math.prod(
        -(-length // chunk) if chunk else 0 for length, chunk in zip(shape, chunks, strict=True)
    )
    return ArrayFigures(
        path=path,
        zarr_format=zarr_format,
        shape=shape,
        data_type=spelled,
        chunks=chunks,
        inner_chunks=inner,
        possible=possible,
    )
