"""How is Zarr's `sharding_indexed` read and written in few requests, with no write lost in a process?

The bytes are those that zarr's own codec writes. A part of a shard is read in two rounds, the index and then all inner
chunks side by side with neighbours together; one round where the index is kept. Writers of one shard take turns.

Source: the Zarr core specification's codec ``sharding_indexed``; ``specs/codecs/shard.md`` for what this one promises.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
from zarr.abc.store import ByteGetter, ByteSetter
from zarr.codecs.sharding import ShardingCodec as ZarrShardingCodec
from zarr.codecs.sharding import _ShardingByteGetter, _ShardingByteSetter
from zarr.core.buffer import Buffer, NDBuffer, default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline, fill_value_or_default
from zarr.core.indexing import CoordinateIndexer, get_indexer
from zarr.storage import StorePath

from zarrvec.codecs.shard_cache import INDEXES
from zarrvec.codecs.shard_guard import guard_of
from zarrvec.codecs.shard_index import Coords, ShardIndex, Span, plan_reads
from zarrvec.codecs.shard_place import Shard
from zarrvec.codecs.shard_sources import IndexRead, ShardChangedError, ShardSource, source_of
from zarrvec.errors import CorruptShardError, StorageError
from zarrvec.faces.chain import Chain, merge_chunk
from zarrvec.faces.pipeline import _workers

REDO_LIMIT: Final = 20
"""How often a read is redone since others wrote the shard between its index and its data."""
_PLAUSIBLE_BYTES: Final = 64 << 20  # what is read without asking for the shard's length first

Chunks: TypeAlias = dict[Coords, Buffer | None]


class ShardingCodec(ZarrShardingCodec):
    """zarr's `ShardingCodec`, with fewer requests and with turns for writers.

    It is used in place of zarr's where zarr's configuration says so; the array's metadata is the same. Only a shard that
    is a value of a plain store is read and written its way. Shards within shards, those of zarrvec stores, and reading through
    zarr's synchronous pipeline go zarr's own way.

    Parameters
    ----------
    chunk_shape, codecs, index_codecs, index_location
        As of zarr's.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> with zarr.config.set({"codecs.sharding_indexed": "zarrvec.codecs.shard.ShardingCodec"}):
    ...     store = zarr.storage.MemoryStore()
    ...     made = zarr.create_array(store, data=np.arange(12), chunks=(2,), shards=(6,))
    ...     array = zarr.open_array(store)  # what was made with shards= has zarr's own codec until it is opened
    >>> type(array.metadata.codecs[0]).__module__, array[5:8]
    ('zarrvec.codecs.shard', array([5, 6, 7]))
    """

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: Any, shard_spec: Any
    ) -> NDBuffer | None:
        if not _is_ours(byte_getter, shard_spec):
            return await super()._decode_partial_single(byte_getter, selection, shard_spec)
        shard = Shard.of(self, byte_getter, shard_spec)
        indexer: Any = get_indexer(selection, shape=shard_spec.shape, chunk_grid=shard.inner_grid)
        source = source_of(shard.place, shard_spec.prototype)
        try:
            out = await self._read_in_peace(shard, source, indexer)
        finally:
            source.close()
        if out is not None and hasattr(indexer, "sel_shape"):
            return out.reshape(indexer.sel_shape)
        return out

    async def _encode_partial_single(
        self, byte_setter: ByteSetter, shard_array: NDBuffer, selection: Any, shard_spec: Any
    ) -> None:
        if not _is_ours(byte_setter, shard_spec):
            await super()._encode_partial_single(byte_setter, shard_array, selection, shard_spec)
            return
        shard = Shard.of(self, byte_setter, shard_spec)
        projections, shard_array = self._project(shard, selection, shard_array)
        complete = len(projections) == prod(shard.grid) and all(
            is_complete for *_, is_complete in projections
        )
        async with guard_of(shard.key).turn(changes=True):
            try:
                chunks = {} if complete else await self._read_all(shard)
                await self._merge(shard, chunks, projections, shard_array)
                encoded = await self._encode_shard_dict(
                    chunks, chunks_per_shard=shard.grid, buffer_prototype=default_buffer_prototype()
                )
                if encoded is None:
                    await byte_setter.delete()
                else:
                    await byte_setter.set(encoded)
            finally:
                INDEXES.drop(shard.key)

    def _encode_partial_sync(
        self, byte_setter: Any, value: NDBuffer, selection: Any, shard_spec: Any
    ) -> None:
        """Take turns where zarr's synchronous pipeline writes."""
        if not _is_ours(byte_setter, shard_spec):
            super()._encode_partial_sync(byte_setter, value, selection, shard_spec)  # type: ignore[misc]
            return
        shard = Shard.of(self, byte_setter, shard_spec)
        with guard_of(shard.key).turn_sync():
            try:
                super()._encode_partial_sync(byte_setter, value, selection, shard_spec)  # type: ignore[misc]
            finally:
                INDEXES.drop(shard.key)

    def _project(self, shard: Shard, selection: Any, value: NDBuffer) -> tuple[Sequence[Any], NDBuffer]:
        """Say which part of a value goes where."""
        newer: Any = getattr(self, "_get_shard_indexer_and_value", None)
        if newer is not None:
            projected: tuple[Sequence[Any], NDBuffer] = newer(selection, shard.spec, value)
            return projected
        indexer: Any = get_indexer(selection, shape=shard.spec.shape, chunk_grid=shard.inner_grid)
        if isinstance(indexer, CoordinateIndexer) and len(value.shape) > 1:
            value = value.reshape(indexer.shape)  # of an orthogonal selection, which zarr 3.1 fails to write
        return list(indexer), value

    async def _read_in_peace(self, shard: Shard, source: ShardSource, indexer: Any) -> NDBuffer | None:
        """Read a shard as it was before or after whatever this process writes to it."""
        guard = guard_of(shard.key)
        seen = guard.seen()
        if seen is not None:
            try:
                out = await self._read(shard, source, indexer, seen)
            except Exception:
                if guard.unless_changed(seen):
                    raise
            else:
                if guard.unless_changed(seen):
                    return out
        async with guard.turn(changes=False):
            return await self._read(shard, source, indexer, None)

    async def _read(
        self, shard: Shard, source: ShardSource, indexer: Any, seen: int | None
    ) -> NDBuffer | None:
        """Read what an indexer selects; None if there is no shard."""
        projections = list(indexer)
        wanted = list({coords for coords, *_ in projections})
        if len(wanted) == prod(shard.grid):
            chunks = await self._read_all(shard)
            return await self._decode_into(shard, chunks, indexer, projections) if chunks else None
        kept = INDEXES.get(shard.key)
        if kept is not None and kept.entries.shape[:-1] != shard.grid:
            kept = None
        before: ShardIndex | None = None
        failure: Exception | None = None
        for _ in range(REDO_LIMIT):
            index = kept or await self._read_index(shard, source, seen)
            if index is None:
                return None
            try:
                found = await self._fetch(shard, source, index, wanted)
                return None if found is None else await self._decode_into(shard, found, indexer, projections)
            except ShardChangedError as error:
                failure = error
            except Exception as error:
                # Another process may have written the shard between its index and its data. Where the storage doesn't
                # say so, an index that is another one now does.
                if index.version is not None:
                    raise
                if before is not None and np.array_equal(before.entries, index.entries):
                    raise
                before, failure = index, error
            kept = None
            INDEXES.drop(shard.key)
        raise StorageError(
            f"{shard.name}: others wrote this shard {REDO_LIMIT} times while a part of it was being read. Let fewer writers "
            "share it, or read it whole."
        ) from failure

    async def _read_index(self, shard: Shard, source: ShardSource, seen: int | None) -> ShardIndex | None:
        length = self._shard_index_size(shard.grid)
        try:
            read = await source.read_index(length, at_start=self._index_is_first)
        except Exception as error:
            size = await source.size_bytes()
            if size is not None and size < length:
                raise shard.truncated(size, length) from error
            raise
        if read is None:
            return None
        index = await self._parse_index(shard, read)
        if read.keep:
            guard_of(shard.key).unless_changed(seen, lambda: INDEXES.put(shard.key, index))
        return index

    async def _parse_index(self, shard: Shard, read: IndexRead) -> ShardIndex:
        length = self._shard_index_size(shard.grid)
        if len(read.data) != length:
            raise shard.truncated(len(read.data), length)
        chain = Chain.of(BatchedCodecPipeline.from_codecs(self.index_codecs))
        try:
            if chain is None:
                entries = (await self._decode_shard_index(read.data, shard.grid)).offsets_and_lengths
            else:
                entries = chain.decode(read.data, self._get_index_chunk_spec(shard.grid)).as_numpy_array()
        except (ValueError, RuntimeError) as error:
            raise CorruptShardError(
                f"{shard.name}: its index can't be decoded: {error}. It is damaged: restore it, or write the whole shard anew."
            ) from error
        return ShardIndex(name=shard.name, entries=entries, version=read.version, size_bytes=read.size_bytes)

    async def _fetch(
        self, shard: Shard, source: ShardSource, index: ShardIndex, wanted: list[Coords]
    ) -> Chunks | None:
        """Read inner chunks; None if the shard is gone."""
        spans = index.locate(wanted)
        if not spans:
            return {}
        plausible = max(_PLAUSIBLE_BYTES, 4 * len(wanted) * shard.chunk_bytes)
        if index.size_bytes is None and sum(span.length for span in spans) > plausible:
            size = await source.size_bytes()
            if size is None:
                return None
            index = replace(index, size_bytes=size)
            spans = index.locate(wanted)
        places = [span for span in spans if span.length]
        reads = plan_reads(
            places, gap_bytes=shard.gap_bytes, read_bytes=shard.read_bytes, size_bytes=index.size_bytes
        )
        try:
            parts = await source.read_spans([Span(read.start, read.length) for read in reads], index.version)
        except ShardChangedError:
            raise
        except Exception:
            size = await source.size_bytes()
            if size is not None:
                replace(index, size_bytes=size).locate(wanted)  # raises if it asked for what isn't there
            raise
        if parts is None:
            INDEXES.drop(shard.key)
            return None
        nothing = shard.spec.prototype.buffer.create_zero_length()
        chunks: Chunks = {
            coords: nothing for span, owners in spans.items() if not span.length for coords in owners
        }
        for read, part in zip(reads, parts, strict=True):
            if len(part) < read.length:
                replace(index, size_bytes=read.start + len(part)).locate(wanted)
            for number in read.wanted:
                start = places[number].start - read.start
                data = part[start : start + places[number].length]
                chunks.update(dict.fromkeys(spans[places[number]], data))
        return chunks

    async def _read_all(self, shard: Shard) -> Chunks:
        """Read a whole shard; nothing if there is none."""
        data = await shard.place.get(shard.spec.prototype)
        if data is None:
            return {}
        length = self._shard_index_size(shard.grid)
        part = data[:length] if self._index_is_first else data[max(0, len(data) - length) :]
        index = await self._parse_index(shard, IndexRead(data=part, size_bytes=len(data)))
        every = list(itertools.product(*(range(size) for size in shard.grid)))
        chunks: Chunks = dict.fromkeys(every)
        for span, owners in index.locate(every).items():
            part = data[span.start : span.start + span.length]
            for coords in owners:
                chunks[coords] = part
        return chunks

    async def _decode_into(
        self, shard: Shard, chunks: Chunks, indexer: Any, projections: Sequence[Any]
    ) -> NDBuffer:
        spec = shard.spec
        out: NDBuffer = spec.prototype.nd_buffer.empty(
            shape=indexer.shape, dtype=spec.dtype.to_native_dtype(), order=spec.order
        )
        chain = self._chain()
        if chain is None:
            await self.codec_pipeline.read(
                [
                    (_ShardingByteGetter(chunks, coords), shard.chunk_spec, *rest)
                    for coords, *rest in projections
                ],
                out,
            )
            return out

        def decode(rows: range) -> None:
            for row in rows:
                coords, chunk_selection, out_selection, _ = projections[row]
                data = chunks.get(coords)
                if data is None:
                    out[out_selection] = fill_value_or_default(spec)
                else:
                    out[out_selection] = chain.decode(data, shard.chunk_spec)[chunk_selection]

        await _in_threads(decode, len(projections), shard.chunk_bytes)
        return out

    async def _merge(self, shard: Shard, chunks: Chunks, projections: Sequence[Any], value: NDBuffer) -> None:
        """Write a value over inner chunks, and encode them."""
        chain = self._chain()
        if chain is None:
            for coords, *_ in projections:
                chunks.setdefault(coords, None)
            await self.codec_pipeline.write(
                [
                    (_ShardingByteSetter(chunks, coords), shard.chunk_spec, *rest)
                    for coords, *rest in projections
                ],
                value,
            )
            return
        pipeline = chain.pipeline

        def encode(rows: range) -> None:
            for row in rows:
                coords, chunk_selection, out_selection, is_complete = projections[row]
                data = None if is_complete else chunks.get(coords)
                old = None if data is None else chain.decode(data, shard.chunk_spec)
                info = None, shard.chunk_spec, chunk_selection, out_selection, is_complete
                merged = merge_chunk(pipeline, old, value, info, ())
                chunks[coords] = None if merged is None else chain.encode(merged, shard.chunk_spec)

        await _in_threads(encode, len(projections), shard.chunk_bytes)

    def _chain(self) -> Chain | None:
        """Return the inner codecs as one chain; None if they need zarr's pipeline."""
        if any(isinstance(codec, ZarrShardingCodec) for codec in self.codecs):
            return None
        return Chain.of(BatchedCodecPipeline.from_codecs(self.codecs))

    @property
    def _index_is_first(self) -> bool:
        location: Any = self.index_location  # an enumeration on 3.1, a string later
        return bool(getattr(location, "value", location) == "start")


def _is_ours(place: object, spec: Any) -> bool:
    return isinstance(place, StorePath) and spec.prototype == default_buffer_prototype()


async def _in_threads(work: Callable[[range], None], rows: int, row_bytes: int) -> None:
    """Spread rows over threads where codecs have work to do outside of the interpreter's lock."""
    workers = min(rows, _workers(rows * row_bytes))
    await asyncio.gather(*(asyncio.to_thread(work, range(first, rows, workers)) for first in range(workers)))
