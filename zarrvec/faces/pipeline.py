"""How does one array operation become one read of one version, or one commit?

zarr gives a codec pipeline the whole batch of chunks of an operation. This one reads them together, merges what is
written in part, and commits once. Batches on other stores, and those inside a shard, go to zarr's own pipeline.

Importing this module, which zarr does through its entry points whenever an array is made, also registers ``array.vec``.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import zarr.abc.codec
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer
from zarr.core.codec_pipeline import BatchedCodecPipeline, fill_value_or_default
from zarr.storage import StorePath

from zarrvec.engine.bridge import run
from zarrvec.engine.reader import Found, Request
from zarrvec.engine.staging import Staging
from zarrvec.engine.version import View
from zarrvec.errors import ConflictError, ReadOnlyError
from zarrvec.faces._vec import register_vec
from zarrvec.faces.chain import Chain, bytes_of, covers_chunk, merge_chunk
from zarrvec.faces.store import _byte_range
from zarrvec.faces.structure import check_structure, chunk_key, document_key
from zarrvec.layout.trace import Kind
from zarrvec.repository import Repository, StaleError
from zarrvec.types import Entry

register_vec()

SLICE_BYTES: Final = 64 << 20
"""Stored bytes that one operation holds at once, besides the next as many that are on their way."""
REDO_LIMIT: Final = 100
"""How often a partial write is redone on what others wrote meanwhile."""
_PARALLEL_BYTES: Final = 1 << 20

ChunkInfo: TypeAlias = tuple[Any, Any, Any, Any, bool]


@dataclass(frozen=True)
class ZarrVecCodecPipeline(BatchedCodecPipeline):
    """zarr's batched pipeline, with reads and writes of a whole operation done together on zarrvec stores."""

    async def read(
        self, batch_info: Iterable[ChunkInfo], out: NDBuffer, drop_axes: tuple[int, ...] = ()
    ) -> Any:
        """Read a batch of chunks, all of one version."""
        batch = list(batch_info)
        target = _target(batch)
        if target is None:
            return await super().read(batch, out, drop_axes)
        repository, keys = target
        view = await run(repository.view())
        self._trace("read", repository, keys, batch, drop_axes)
        document = None if repository.at is not None else document_key(self, keys[0], batch[0][1].shape)
        entries = await run(repository.locate(view, keys if document is None else [*keys, document]))
        if document is not None:
            await check_structure(self, repository, view, document, batch[0][1].shape, entries.pop())
        whole = list(range(len(batch)))
        if self.supports_partial_decode:
            getters = [
                (_Getter(repository, view, key), *info[1:])
                for key, info in zip(keys, batch, strict=True)
                if not info[4]
            ]
            await super().read(getters, out, drop_axes)
            whole = [row for row in whole if batch[row][4]]
        await self._read_slices(
            repository,
            [keys[row] for row in whole],
            [entries[row] for row in whole],
            [batch[row] for row in whole],
            out,
            drop_axes,
        )
        return _results(entries)

    def _trace(
        self,
        kind: Kind,
        repository: Repository,
        keys: Sequence[str],
        batch: Sequence[ChunkInfo],
        drop_axes: tuple[int, ...],
    ) -> None:
        """Count an operation by its shape."""
        tracer = repository.tracer
        if tracer is None:
            return
        lengths = batch[0][1].shape
        first, last = (chunk_key(self, key, lengths) for key in (keys[0], keys[-1]))
        if first is not None and last is not None:
            tracer.note(kind, first.array, batch, (first.position, last.position), lengths, drop_axes)

    async def _read_slices(
        self,
        repository: Repository,
        keys: list[str],
        entries: list[Entry | None],
        batch: list[ChunkInfo],
        out: NDBuffer,
        drop_axes: tuple[int, ...],
    ) -> None:
        """Fetch one slice while the one before is decoded."""
        slices = _slices([0 if entry is None else entry.length for entry in entries])
        chain = Chain.of(self)

        def fetch(start: int, stop: int) -> asyncio.Task[list[Found | None]]:
            return asyncio.ensure_future(run(repository.read_entries(keys[start:stop], entries[start:stop])))

        following = fetch(*slices[0])
        for index, (start, stop) in enumerate(slices):
            found = await following
            if index + 1 < len(slices):
                following = fetch(*slices[index + 1])
            try:
                await self._decode_into(chain, batch[start:stop], found, out, drop_axes)
            except BaseException:
                following.cancel()
                raise

    async def _decode_into(
        self,
        chain: Chain | None,
        batch: Sequence[ChunkInfo],
        found: Sequence[Found | None],
        out: NDBuffer,
        drop_axes: tuple[int, ...],
    ) -> None:
        def place(info: ChunkInfo, chunk: NDBuffer | None) -> None:
            _, spec, chunk_selection, out_selection, _ = info
            if chunk is None:
                out[out_selection] = fill_value_or_default(spec)
            else:
                part = chunk[chunk_selection]
                out[out_selection] = part.squeeze(axis=drop_axes) if drop_axes else part

        if chain is None:
            buffers = [_buffer(info, value) for info, value in zip(batch, found, strict=True)]
            chunks = await self.decode(zip(buffers, (info[1] for info in batch), strict=True))
            for info, chunk in zip(batch, chunks, strict=True):
                place(info, chunk)
            return

        def decode(rows: range) -> None:
            for row in rows:
                info = batch[row]
                buffer = _buffer(info, found[row])
                place(info, None if buffer is None else chain.decode(buffer, info[1]))

        workers = _workers(sum(len(value.data) for value in found if value is not None))
        await asyncio.gather(
            *(asyncio.to_thread(decode, range(first, len(batch), workers)) for first in range(workers))
        )

    async def write(
        self, batch_info: Iterable[ChunkInfo], value: NDBuffer, drop_axes: tuple[int, ...] = ()
    ) -> None:
        """Write a batch of chunks as one commit; partial chunks are redone if others changed them meanwhile."""
        batch = list(batch_info)
        target = _target(batch)
        if target is None:
            await super().write(batch, value, drop_axes)
            return
        repository, keys = target
        store = batch[0][0].store
        if store.read_only:
            raise ReadOnlyError(
                "store was opened in read-only mode and does not support writing: "
                f"{repository.place.name}; open it with mode='r+' and without 'at'."
            )
        for _ in range(REDO_LIMIT):
            gathered = repository.gathered()  # which takes no call into the engine's loop
            staging = await run(repository.begin_reading()) if gathered is None else gathered
            try:
                document = document_key(self, keys[0], batch[0][1].shape)
                if document is not None:
                    structure = await check_structure(
                        self, repository, staging.view, document, batch[0][1].shape
                    )
                    if structure is not None:
                        staging.rest_on(structure.key, structure.structure)
                if self.supports_partial_encode:
                    setters = [
                        (_Setter(repository, staging, key), *info[1:])
                        for key, info in zip(keys, batch, strict=True)
                    ]
                    await super().write(setters, value, drop_axes)
                else:
                    await self._stage(repository, staging, keys, batch, value, drop_axes)
                await run(repository.finish(staging))
            except StaleError:
                continue
            except BaseException:
                if repository.transaction is None:
                    await run(staging.discard())
                raise
            self._trace("write", repository, keys, batch, drop_axes)
            return
        raise ConflictError(
            f"{repository.place.name}: others changed {keys[0]!r} {REDO_LIMIT} times while a part of it was being written. "
            "Write whole chunks, or let fewer writers share one.",
            keys=tuple(keys),
        )

    async def _stage(
        self,
        repository: Repository,
        staging: Staging,
        keys: list[str],
        batch: list[ChunkInfo],
        value: NDBuffer,
        drop_axes: tuple[int, ...],
    ) -> None:
        """Merge, encode and stage a batch, slice by slice."""
        chain = Chain.of(self)
        for start, stop in _slices([_decoded_bytes(info[1]) for info in batch]):
            part, names = batch[start:stop], keys[start:stop]
            partial = [index for index, info in enumerate(part) if not info[4]]
            old: list[Found | None] = [None] * len(part)
            read = (
                await run(repository.read_to_write(staging, [names[index] for index in partial]))
                if partial
                else []
            )
            for index, found in zip(partial, read, strict=True):
                old[index] = found
            encoded = await self._merge_and_encode(chain, part, old, value, drop_axes)
            puts = {name: data for name, data in zip(names, encoded, strict=True) if data is not None}
            deletes = [name for name, data in zip(names, encoded, strict=True) if data is None]
            keep = {name for name, info in zip(names, part, strict=True) if not covers_chunk(info)}
            await run(repository.stage(staging, puts, deletes, keep=keep))

    async def _merge_and_encode(
        self,
        chain: Chain | None,
        batch: Sequence[ChunkInfo],
        old: Sequence[Found | None],
        value: NDBuffer,
        drop_axes: tuple[int, ...],
    ) -> list[bytes | None]:
        buffers = [_buffer(info, found) for info, found in zip(batch, old, strict=True)]
        if chain is None:
            specs = [info[1] for info in batch]
            chunks = await self.decode(zip(buffers, specs, strict=True))
            merged = [
                merge_chunk(self, chunk, value, info, drop_axes)
                for chunk, info in zip(chunks, batch, strict=True)
            ]
            encoded = await self.encode(zip(merged, specs, strict=True))
            return [None if data is None else data.to_bytes() for data in encoded]
        result: list[bytes | None] = [None] * len(batch)

        def encode(rows: range) -> None:
            for row in rows:
                info, buffer = batch[row], buffers[row]
                chunk = None if buffer is None else chain.decode(buffer, info[1])
                merged = merge_chunk(self, chunk, value, info, drop_axes)
                data = None if merged is None else chain.encode(merged, info[1])
                result[row] = None if data is None else bytes_of(data)

        workers = _workers(sum(_decoded_bytes(info[1]) for info in batch))
        await asyncio.gather(
            *(asyncio.to_thread(encode, range(first, len(batch), workers)) for first in range(workers))
        )
        return result


@dataclass(frozen=True, slots=True)
class _Getter:
    """Reads one key of one version, for codecs that read parts of a shard."""

    repository: Repository
    view: View
    key: str

    async def get(self, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a value or a part of it."""
        found = await run(self.repository.read_one(Request(self.key, _byte_range(byte_range)), self.view))
        return None if found is None else prototype.buffer.from_bytes(found.data)


@dataclass(frozen=True, slots=True)
class _Setter:
    """Captures what a codec writes; what it reads, its write rests on."""

    repository: Repository
    staging: Staging
    key: str

    async def get(self, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a value or a part of it, and note that the write rests on it."""
        if byte_range is None:
            found = (await run(self.repository.read_to_write(self.staging, [self.key])))[0]
        else:
            found = await run(self._read(Request(self.key, _byte_range(byte_range))))
        return None if found is None else prototype.buffer.from_bytes(found.data)

    async def _read(self, request: Request) -> Found | None:
        found = await self.repository.read_one(request, self.staging.view)
        self.staging.expect(self.key, 0 if found is None else found.generation)
        return found

    async def set(self, value: Buffer) -> None:
        """Stage a value."""
        await run(self.repository.stage(self.staging, {self.key: value.to_bytes()}, keep={self.key}))

    async def delete(self) -> None:
        """Stage a deletion."""
        await run(self.repository.stage(self.staging, {}, [self.key]))

    async def set_if_not_exists(self, default: Buffer) -> None:
        """Stage a value if there is none."""
        if (await run(self.repository.read_to_write(self.staging, [self.key])))[0] is None:
            await self.set(default)


def _target(batch: Sequence[ChunkInfo]) -> tuple[Repository, list[str]] | None:
    """Return the repository of a batch and the chunks' keys; None if it is not on a zarrvec store."""
    from zarrvec.faces.targets import repository_and_key

    if not batch or not isinstance(batch[0][0], StorePath):
        return None
    first: StorePath = batch[0][0]
    found = repository_and_key(first.store, "")
    if found is None:
        return None
    repository, root = found
    return repository, [f"{root}/{info[0].path}" if root else info[0].path for info in batch]


def _buffer(info: ChunkInfo, found: Found | None) -> Buffer | None:
    buffer: Buffer | None = None if found is None else info[1].prototype.buffer.from_bytes(found.data)
    return buffer


def _slices(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cut a batch so that no slice holds much more than `SLICE_BYTES`."""
    slices: list[tuple[int, int]] = []
    start = held = 0
    for index, size in enumerate(sizes):
        if index > start and held + size > SLICE_BYTES:
            slices.append((start, index))
            start, held = index, 0
        held += size
    slices.append((start, len(sizes)))
    return slices


def _decoded_bytes(spec: Any) -> int:
    size = int(spec.dtype.to_native_dtype().itemsize)
    for length in spec.shape:
        size *= length
    return size


def _workers(size: int) -> int:
    """Threads pay where codecs have work to do outside of the interpreter's lock."""
    return 1 if size < _PARALLEL_BYTES else min(4, os.cpu_count() or 1)


def _results(entries: Sequence[Entry | None]) -> Any:
    """Return what newer zarr wants to know: which chunks were there."""
    result: Any = getattr(zarr.abc.codec, "GetResult", None)
    if result is None:
        return None
    return tuple(result(status="missing" if entry is None else "present") for entry in entries)
