"""Does an array still have the chunks and codecs that the caller's handle believes in?

`zarrvec.rechunk` changes them under handles that are open elsewhere. These would decode the new chunks as old ones, or
write old ones among them; they get an error instead. Nothing is asked of the storage as long as the metadata document is
the one that was looked at last.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from zarr.codecs._v2 import V2Codec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from zarrvec.engine.bridge import run
from zarrvec.engine.reader import Request
from zarrvec.engine.version import View
from zarrvec.errors import ConflictError
from zarrvec.layout.structure import structure_of
from zarrvec.layout.trace import ChunkKey, split_chunk_key
from zarrvec.repository import Repository
from zarrvec.types import Entry

_KNOWN: Final = "_zarrvec_structure"


class Structure(NamedTuple):
    """How the chunks of an array are stored, as a handle on it knows."""

    key: str
    """Of the metadata document."""
    seen: object
    """What tells whether the document is still the same: itself, or where it stands."""
    structure: bytes
    """What it says of chunks and codecs."""


def format_of(pipeline: BatchedCodecPipeline) -> int:
    """Return the Zarr format of the array that a pipeline belongs to."""
    return 2 if isinstance(pipeline.array_bytes_codec, V2Codec) else 3


def chunk_key(pipeline: BatchedCodecPipeline, key: str, lengths: Sequence[int]) -> ChunkKey | None:
    """Take the key of a chunk of these lengths apart; None if it can't be."""
    return split_chunk_key(key, len(lengths), zarr_format=format_of(pipeline))


def document_key(pipeline: BatchedCodecPipeline, key: str, lengths: Sequence[int]) -> str | None:
    """Return the key of the metadata document of the array that a chunk belongs to; None if it can't be told."""
    chunk = chunk_key(pipeline, key, lengths)
    if chunk is None:
        return None
    name = ".zarray" if format_of(pipeline) == 2 else "zarr.json"
    return f"{chunk.array}/{name}" if chunk.array else name


async def check_structure(
    pipeline: BatchedCodecPipeline,
    repository: Repository,
    view: View,
    key: str,
    lengths: tuple[int, ...],
    entry: Entry | None = None,
) -> Structure | None:
    """Make sure that a handle knows the chunks and codecs of its array as they are in a view.

    Parameters
    ----------
    pipeline
        Of the handle; it remembers what was found.
    repository, view
        What is read.
    key
        Of the metadata document.
    lengths
        Of the chunks, as the handle knows them.
    entry
        Of the document, if it was located already.

    Returns
    -------
    Structure or None
        None if there is no such document.

    Raises
    ------
    ConflictError
        If they are others.
    """
    entry = entry or view.find(key) or (await run(repository.locate(view, [key])))[0]
    if entry is None or entry.is_deleted:
        return None
    seen = entry.data if entry.data is not None else (entry.pack, entry.offset)
    known: Structure | None = pipeline.__dict__.get(_KNOWN)
    if known is not None and known.key == key and known.seen == seen:
        return known
    document = entry.data
    if document is None:
        engine = await run(repository.engine())
        found = (await run(engine.read(view, [Request(key)])))[0]
        if found is None:
            return None
        document = found.data
    if not _describes(pipeline, bytes(document), lengths):
        raise ConflictError(
            f"{repository.place.name}: {key!r} describes other chunks or codecs than this handle knows (chunks of {lengths}): "
            "the array was rechunked or made anew after it was opened. Open it again and redo the call.",
            keys=(key,),
        )
    checked = Structure(key, seen, structure_of(bytes(document)))
    object.__setattr__(pipeline, _KNOWN, checked)
    return checked


def _describes(pipeline: BatchedCodecPipeline, document: bytes, lengths: tuple[int, ...]) -> bool:
    """Return whether a metadata document is of an array with the chunks and codecs that a pipeline was made for."""
    described: dict[str, Any] = json.loads(document)
    if "chunks" in described:
        v2 = ArrayV2Metadata.from_dict(described)
        return tuple(described["chunks"]) == lengths and _same(
            tuple(pipeline), (V2Codec(filters=v2.filters, compressor=v2.compressor),)
        )
    if described.get("node_type") != "array":
        return True  # an array whose keys look like those of another
    grid = described["chunk_grid"]
    is_regular = grid["name"] == "regular"
    if is_regular and tuple(grid["configuration"]["chunk_shape"]) != lengths:
        return False
    if _spelled(described["codecs"]) == _spelled([codec.to_dict() for codec in pipeline]):
        return True  # most often they are as zarr has written them
    return _same(tuple(pipeline), ArrayV3Metadata.from_dict(described).codecs)


def _same(mine: tuple[Any, ...], stored: tuple[Any, ...]) -> bool:
    return len(mine) == len(stored) and all(
        one == other
        or _spelled(one.to_dict()) == _spelled(other.to_dict())  # a codec may have several implementations
        for one, other in zip(mine, stored, strict=True)
    )


def _spelled(described: Any) -> Any:
    """Return codecs in one spelling: where no byte order is needed, zarr 3.1 gives one to those of a shard that is unpickled."""
    if isinstance(described, list | tuple):
        return [_spelled(each) for each in described]
    if not isinstance(described, dict):
        return described
    if described.get("name") == "bytes":
        return {"configuration": {"endian": sys.byteorder}} | described
    return {name: _spelled(value) for name, value in described.items()}
