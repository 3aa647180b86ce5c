"""How does zarr format 3 store vectors as codes? The codec ``zarrvec.sq``, which zarr finds by its entry point.

Source: ``specs/codecs/sq.md``.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
from zarr.abc.store import RangeByteRequest
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from zarrvec.codecs.quantizer import (
    BITS,
    DTYPES,
    NONFINITE,
    Bits,
    Bytes,
    Floats,
    Form,
    Nonfinite,
    NotStorableError,
    decode,
    encode,
)
from zarrvec.codecs.selecting import runs_of, select
from zarrvec.errors import CodecError, CorruptError

NAME: Final = "zarrvec.sq"
_THREAD_BYTES: Final = 1 << 20
"""Decoded bytes from which on a thread of its own pays."""


@dataclass(frozen=True)
class ScalarQuantizer(ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Stores each vector, a row along the last axis of a chunk, as codes of 8 or 4 bits between its least and its greatest element.

    Lossy: an element is read at most half a step, ``(max - min) / 255 / 2`` of its vector with 8 bits and ``/ 15 / 2`` with 4,
    from what was written, and a little for rounding. Takes float16, float32 and float64. A few rows of a chunk are read by their
    bytes alone, where no codec stands behind this one.

    Parameters
    ----------
    bits
        8 or 4.
    nonfinite
        What is done with NaN and infinities: ``"refuse"`` them, or ``"preserve"`` them at the price of three of the codes.

    Raises
    ------
    CodecError
        If the configuration isn't one of these; when an array is made, if it isn't one of floats with a last axis of at least 1;
        when a chunk is written, if it holds what can't be held.
    CorruptError
        When a chunk is read that no encoder writes.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(
    ...     zarr.storage.MemoryStore(), shape=(100, 64), chunks=(50, 64), dtype="f4",
    ...     serializer=ScalarQuantizer(bits=8), compressors=None)
    >>> array[3] = np.linspace(-1, 1, 64)
    >>> bool(np.abs(array[3] - np.linspace(-1, 1, 64)).max() < 2 / 255 / 2 * 1.001)
    True
    """

    is_fixed_size = True

    bits: Bits
    nonfinite: Nonfinite

    def __init__(self, *, bits: int = 8, nonfinite: str = "refuse") -> None:
        check_configuration(bits, nonfinite)
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "nonfinite", nonfinite)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make the codec of its configuration in ``zarr.json``."""
        configuration = data.get("configuration", {})
        unknown = sorted(set(configuration) - {"bits", "nonfinite"})
        if data.get("name") != NAME or unknown:
            raise CodecError(
                f"{NAME} is configured by 'bits' and 'nonfinite', not by {unknown or data.get('name')}: mend the codec's "
                "configuration, or use a newer zarrvec if that wrote it."
            )
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as ``zarr.json`` has it."""
        return {"name": NAME, "configuration": {"bits": self.bits, "nonfinite": self.nonfinite}}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Check that chunks of this kind can be stored."""
        self._form(array_spec)
        return self

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:  # noqa: ARG002 - zarr's signature
        """Check that an array of this kind can be stored."""
        check_vectors(dtype.to_native_dtype(), shape)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:  # noqa: ARG002 - zarr's signature
        """Return the bytes of an encoded chunk."""
        return math.prod(chunk_spec.shape[:-1]) * self._form(chunk_spec).record_bytes

    def _form(self, spec: ArraySpec) -> Form:
        dtype = spec.dtype.to_native_dtype()
        check_vectors(dtype, spec.shape)
        return Form(
            bits=self.bits, width=spec.shape[-1], dtype=dtype.newbyteorder("="), nonfinite=self.nonfinite
        )

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        form = self._form(chunk_spec)
        vectors = chunk_data.as_numpy_array().reshape(-1, form.width)
        records = encode_chunk(vectors, form, chunk_spec.shape, fill=_fill(chunk_spec))
        return chunk_spec.prototype.buffer.from_array_like(cast("Any", records.reshape(-1)))

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        form = self._form(chunk_spec)
        vectors = decode_chunk(_bytes_of(chunk_data), form, math.prod(chunk_spec.shape[:-1]))
        return _array_of(vectors.reshape(chunk_spec.shape), chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        """Read the records of the rows that are selected, and no others but those in short gaps between them."""
        form = self._form(chunk_spec)
        wanted = select(selection, chunk_spec.shape)
        rows = math.prod(chunk_spec.shape[:-1])
        if len(wanted.rows) == rows:
            data = await byte_getter.get(prototype=chunk_spec.prototype)
            if data is None:
                return None
            vectors = await _decoded(_bytes_of(data), form, rows)
            return _array_of(wanted.of(vectors), chunk_spec)
        size = form.record_bytes
        runs = runs_of(wanted.rows, size)
        parts = await asyncio.gather(
            *(
                byte_getter.get(
                    prototype=chunk_spec.prototype,
                    byte_range=RangeByteRequest(start * size, stop * size),
                )
                for start, stop in runs
            )
        )
        if any(part is None for part in parts):
            return None
        blocks = []
        for (start, stop), part in zip(runs, parts, strict=True):
            vectors = await _decoded(_bytes_of(part), form, stop - start)
            blocks.append(vectors[wanted.rows[(wanted.rows >= start) & (wanted.rows < stop)] - start])
        vectors = (
            blocks[0]
            if len(blocks) == 1
            else np.concatenate(blocks or [np.empty((0, form.width), form.dtype)])
        )
        return _array_of(wanted.of(vectors), chunk_spec)


def check_configuration(bits: object, nonfinite: object) -> None:
    """Raise `CodecError` if the codec can't be configured so."""
    if type(bits) is not int or bits not in BITS:
        raise CodecError(f"{NAME}: bits={bits!r} is not 8 or 4.")
    if nonfinite not in NONFINITE:
        raise CodecError(f"{NAME}: nonfinite={nonfinite!r} is not 'refuse' or 'preserve'.")


def check_vectors(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise `CodecError` if arrays or chunks of this kind can't be stored as vectors."""
    if dtype.newbyteorder("=").name not in DTYPES:
        raise CodecError(
            f"{NAME} is lossy and takes {', '.join(DTYPES)}, not {dtype}: leave the codec away, or make an array of floats."
        )
    if not shape or shape[-1] == 0:
        raise CodecError(
            f"{NAME} takes vectors, rows along the last axis; an array or chunk of shape {shape} has none that are at least 1 long."
        )


def encode_chunk(vectors: Floats, form: Form, shape: tuple[int, ...], *, fill: float | None = None) -> Bytes:
    """Return the records of a chunk; where a value can't be held, say its place in the chunk."""
    try:
        return encode(vectors, form, fill=fill)
    except NotStorableError as error:
        place = (*(int(index) for index in np.unravel_index(error.row, shape[:-1] or (1,))), error.column)
        raise CodecError(f"{NAME}: at {place[-len(shape) :]} of a chunk of shape {shape}: {error}.") from None


def decode_chunk(data: Bytes, form: Form, rows: int) -> Floats:
    """Return the vectors of so many records; a wrong length is an error too."""
    if len(data) != rows * form.record_bytes:
        raise CorruptError(
            f"{NAME}: {len(data)} bytes for {rows} vectors of {form.width} elements of {form.bits} bits, which take "
            f"{rows * form.record_bytes}: the chunk is damaged, or not of this codec. Restore it or write it again."
        )
    try:
        return decode(data.reshape(rows, form.record_bytes), form)
    except CorruptError as error:
        raise CorruptError(f"{NAME}: {error}: the chunk is damaged. Restore it or write it again.") from None


async def _decoded(data: Bytes, form: Form, rows: int) -> Floats:
    if rows * form.width * form.dtype.itemsize < _THREAD_BYTES:
        return decode_chunk(data, form, rows)
    return await asyncio.to_thread(decode_chunk, data, form, rows)


def _bytes_of(data: Buffer) -> Bytes:
    return np.ascontiguousarray(data.as_numpy_array()).view(np.uint8).reshape(-1)


def _array_of(array: Floats, spec: ArraySpec) -> NDBuffer:
    native = array.astype(spec.dtype.to_native_dtype(), copy=False)
    buffer: NDBuffer = spec.prototype.nd_buffer.from_numpy_array(native)
    return buffer


def _fill(spec: ArraySpec) -> float | None:
    """Return the fill value if it isn't finite."""
    fill = None if spec.fill_value is None else float(cast("Any", spec.fill_value))
    return None if fill is None or math.isfinite(fill) else fill
