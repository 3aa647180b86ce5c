"""How is one chunk decoded and encoded in one pass, with no task per codec and chunk?

Both zarr lines have synchronous codecs; a chain that holds one without falls back to zarr's own pipeline.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Self

from zarr.abc.codec import SupportsSyncCodec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.codec_pipeline import BatchedCodecPipeline, fill_value_or_default

try:  # newer zarr
    _merge: Any = import_module("zarr.core.chunk_utils")._merge_chunk_array
except ImportError:  # 3.1: a method of the pipeline
    _merge = None


@dataclass(slots=True)
class Chain:
    """The codecs of a pipeline, called one after the other.

    Parameters
    ----------
    pipeline
        Whose codecs they are.
    """

    pipeline: BatchedCodecPipeline
    _specs: dict[tuple[int, ...], list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, pipeline: BatchedCodecPipeline) -> Self | None:
        """Return the chain of a pipeline, None if one of its codecs has no synchronous form."""
        usable = all(
            isinstance(codec, SupportsSyncCodec) and getattr(codec, "_sync_capable", True)
            for codec in pipeline
        )
        return cls(pipeline) if usable else None

    def _chain(self, spec: Any) -> list[Any]:
        """Return the spec that each codec sees, from the array's side to the store's."""
        chain = self._specs.get(spec.shape)
        if chain is None:
            chain = []
            for codec in self.pipeline:
                chain.append((codec, spec))
                spec = codec.resolve_metadata(spec)
            self._specs[chain[0][1].shape] = chain
        return chain

    def decode(self, data: Buffer, spec: Any) -> NDBuffer:
        """Decode a chunk."""
        value: Any = data
        for codec, codec_spec in reversed(self._chain(spec)):
            value = codec._decode_sync(value, codec_spec)
        decoded: NDBuffer = value
        return decoded

    def encode(self, chunk: NDBuffer, spec: Any) -> Buffer | None:
        """Encode a chunk; None if a codec leaves nothing of it."""
        value: Any = chunk
        for codec, codec_spec in self._chain(spec):
            value = codec._encode_sync(value, codec_spec)
            if value is None:
                return None
        encoded: Buffer = value
        return encoded


def bytes_of(data: Buffer) -> bytes:
    """Return the bytes of a buffer; those that a codec has returned are not copied."""
    held = data.as_numpy_array()
    base: Any = held.base
    if isinstance(base, bytes) and len(base) == held.nbytes and held.flags.c_contiguous:
        return base
    return data.to_bytes()


def merge_chunk(
    pipeline: BatchedCodecPipeline,
    old: NDBuffer | None,
    value: NDBuffer,
    info: Any,
    drop_axes: tuple[int, ...],
) -> NDBuffer | None:
    """Put what is written over what a chunk held; None if the chunk then is empty and empty ones are not kept."""
    _, spec, chunk_selection, out_selection, is_complete = info
    whole = _whole(value, info) if is_complete and not drop_axes else None
    merge: Any = _merge or pipeline._merge_chunk_array
    chunk: NDBuffer = (
        merge(old, value, out_selection, spec, chunk_selection, is_complete, drop_axes)
        if whole is None
        else whole
    )
    if not spec.config.write_empty_chunks and _holds_only(chunk, fill_value_or_default(spec)):
        return None
    return chunk


def covers_chunk(info: Any) -> bool:
    """Return whether a selection is all of a chunk; to zarr that part of it is complete which lies within the array."""
    _, spec, chunk_selection, *_ = info
    return len(chunk_selection) == len(spec.shape) and all(
        isinstance(part, slice) and part.indices(length) == (0, length, 1)
        for part, length in zip(chunk_selection, spec.shape, strict=True)
    )


def _whole(value: NDBuffer, info: Any) -> NDBuffer | None:
    """Return what is written if that is all of a chunk as it stands, which then need not be copied; else None."""
    _, spec, _, out_selection, _ = info
    if spec.order != "C" or len(value.shape) != len(spec.shape) or not covers_chunk(info):
        return None
    if value.dtype != spec.dtype.to_native_dtype():
        return None
    part = value[out_selection]
    return part if part.shape == spec.shape and part.as_numpy_array().flags.c_contiguous else None


def _holds_only(chunk: NDBuffer, value: Any) -> bool:
    """Return whether all elements equal a value; most often the first one tells."""
    first = chunk[(slice(1),) * len(chunk.shape)] if chunk.shape else chunk
    return bool(first.all_equal(value) and chunk.all_equal(value))
