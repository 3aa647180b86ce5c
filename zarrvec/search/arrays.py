"""How are the arrays of an index made and filled?

By zarr; on a zarrvec store by writing the documents and chunks that zarr would, each by one call into the engine, where zarr
takes two to four milliseconds for an array. Source: ``specs/vector-index.md``, section "Group".
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import TransposeCodec, ZstdCodec
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.engine.bridge import run_sync
from zarrvec.faces.targets import repository_and_key
from zarrvec.faces.writing import begin_to_send
from zarrvec.repository import Repository
from zarrvec.search.entries import APART_BYTES, EntriesReader
from zarrvec.search.list_table import PACKED_LEVEL, pack_rows


def write_attribute(group: zarr.Group, name: str, value: Any, *, ahead: bool = False) -> None:
    """Set an attribute of the group of an index, whose document is replaced; on a zarrvec store that rests on what was read of it.

    Parameters
    ----------
    ahead
        Whether a zarrvec store begins to send what was written before in the open transaction.
    """
    found = _ours(group.store_path)
    if found is None:
        group.attrs[name] = value
        return
    repository, path = found
    document = _group_document({**group.attrs.asdict(), name: value})

    async def write() -> None:
        if ahead:
            await begin_to_send(repository)
        await repository.write({f"{path}/zarr.json": document})

    run_sync(write())


def write_whole(
    group: zarr.Group, name: str, values: npt.NDArray[Any], *, packed: bool = False, keep: bool = False
) -> None:
    """Write an array that is read as one value, a single chunk; one of as many axes that is there is replaced.

    Parameters
    ----------
    group
        Of the index.
    name
        Path below it.
    values
        All of it.
    packed
        Whether it is compressed as by `zarrvec.search.list_table.pack_rows`; then `values` are rows of bytes.
    keep
        Whether a zarrvec store keeps it in memory: who changes an index a little soon reads again what it has written.
    """
    chunk = tuple(max(1, length) for length in values.shape)
    found = _ours(group.store_path / name)
    if found is not None:
        stored = {"zarr.json": _document(values.shape, chunk, values.dtype, packed=packed)}
        if values.size:
            stored["/".join(["c", *("0" for _ in chunk)])] = pack_rows(values) if packed else values.tobytes()
        _write(found, stored, replace=not values.size, keep=keep)
        return
    array = group.create_array(
        name, shape=values.shape, chunks=chunk, dtype=values.dtype,
        filters=TransposeCodec(order=(1, 0)) if packed else None,
        compressors=ZstdCodec(level=PACKED_LEVEL) if packed else None,
        fill_value=0, overwrite=name in group, config={"write_empty_chunks": True},
    )  # fmt: skip
    if values.size:
        array[...] = values


def create_entries(
    group: zarr.Group, name: str, rows: int, entry_bytes: int, *, apart: bool = False
) -> AnyArray:
    """Create the array for some entries, which `write_rows` fills.

    Parameters
    ----------
    group
        Of the index.
    name
        Path below it: of a segment, and of an array in that.
    rows
        Number of entries.
    entry_bytes
        Bytes of each.
    apart
        Whether one half should be sent while the other is made, if they are long.

    Examples
    --------
    >>> group = zarr.create_group(zarr.storage.MemoryStore())
    >>> array = create_entries(group, "s/entries", 10_000, 100)
    >>> array.chunks, array.shards
    ((2621, 100), (10484, 100))
    """
    found = _ours(group.store_path)
    cut = EntriesReader.planned(name, rows, entry_bytes, versioned=found is not None, apart=apart)
    if found is not None:
        document = _document((rows, entry_bytes), (cut.chunk_rows, entry_bytes), np.dtype("u1"))
        segment = name.rpartition("/")[0]
        _write(found, {f"{segment}/zarr.json": _group_document({}), f"{name}/zarr.json": document})
        return zarr.Array.from_dict(group.store_path / name, json.loads(document))
    return group.create_array(
        name,
        shape=(rows, entry_bytes),
        chunks=(cut.chunk_rows, entry_bytes),
        shards=None if cut.shard_rows is None else (cut.shard_rows, entry_bytes),
        dtype="uint8",
        compressors=None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def unit_of(array: AnyArray) -> int:
    """Return how many entries are written at once: those of a shard, or of a chunk where there are no shards."""
    return (array.shards or array.chunks)[0]


def write_rows(array: AnyArray, start: int, *parts: bytes | memoryview, ahead: bool = False) -> None:
    """Write a whole unit of an array of entries, the last of which ends with the array.

    Parameters
    ----------
    array
        Of `create_entries`.
    start
        The first row.
    *parts
        Together the bytes of whole rows.
    ahead
        Whether a zarrvec store begins to send them in the open transaction, if they are long.
    """
    found, unit, width = _ours(array.store_path), unit_of(array), array.shape[1]
    if found is None:
        rows = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, width)
        array[start : start + len(rows)] = rows
        return
    missing = bytes(unit * width - sum(map(len, parts)))
    _write(found, {f"c/{start // unit}/0": b"".join((*parts, missing))}, ahead=ahead)


def _ours(place: StorePath) -> tuple[Repository, str] | None:
    """Return the handle behind a path and what it is called there, None if it is not on a zarrvec store."""
    return repository_and_key(place.store, place.path)


def _write(
    found: tuple[Repository, str],
    values: Mapping[str, bytes],
    *,
    replace: bool = False,
    keep: bool = False,
    ahead: bool = False,
) -> None:
    """Write values below a path of a zarrvec store, beside what is there or in its place.

    Documents don't rest on what was read of them, as those that zarr writes do: what is changed at once is known by that of the group.
    """
    repository, path = found

    async def write() -> None:
        staging = await repository.begin()
        if replace:
            staging.clear(path)
        for key, value in values.items():
            await staging.put(f"{path}/{key}", value, keep=keep)
        await repository.finish(staging)
        if ahead:
            await begin_to_send(repository, APART_BYTES)

    run_sync(write())


def _group_document(attributes: Mapping[str, object]) -> bytes:
    """Return the metadata document of a group."""
    return json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"}).encode()


def _document(
    shape: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype[Any], *, packed: bool = False
) -> bytes:
    """Return the metadata document of an array of little-endian numbers, uncompressed unless it is packed."""
    codecs: list[dict[str, Any]] = [{"name": "bytes"}]
    if dtype.itemsize > 1:
        codecs[0]["configuration"] = {"endian": "little"}
    if packed:
        codecs = [
            {"name": "transpose", "configuration": {"order": [1, 0]}},
            *codecs,
            {"name": "zstd", "configuration": {"level": PACKED_LEVEL, "checksum": False}},
        ]
    document = {
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document).encode()
