"""How does Zarr format 2 store vectors as codes? The filter ``zarrvec.sq``, which numcodecs finds by its entry point.

Source: ``specs/codecs/sq.md``, section "Format 2".
"""

import math
from typing import Any, cast

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy

from zarrvec.codecs.quantizer import Bits, Form, Nonfinite
from zarrvec.codecs.sq import NAME, check_configuration, check_vectors, decode_chunk, encode_chunk
from zarrvec.errors import CodecError, CorruptError


class ScalarQuantizerFilter(Codec):
    """Does what `zarrvec.codecs.sq.ScalarQuantizer` does, as a filter of format 2, which must be told dtype and width.

    Parameters
    ----------
    width
        Elements of a vector: the length of the last axis of a chunk.
    dtype
        Of the array: float16, float32 or float64.
    bits, nonfinite
        See there.

    Raises
    ------
    CodecError
        If the configuration isn't one of these, the chunk is of another dtype or width or in Fortran order, or it holds what can't
        be held.
    CorruptError
        When a chunk is read that no encoder writes.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(
    ...     zarr.storage.MemoryStore(), shape=(100, 64), chunks=(50, 64), dtype="f4", zarr_format=2,
    ...     filters=[ScalarQuantizerFilter(width=64, dtype="<f4")], compressors=None)
    >>> array[3] = np.linspace(0, 255, 64)
    >>> array[3, :3].round(1).tolist()
    [0.0, 4.0, 8.0]
    """

    codec_id: str | None = NAME

    def __init__(self, *, width: int, dtype: Any, bits: int = 8, nonfinite: str = "refuse") -> None:
        check_configuration(bits, nonfinite)
        if type(width) is not int or width < 1:
            raise CodecError(
                f"{NAME}: width={width!r} is not the length of a vector, an integer of at least 1."
            )
        self.width = width
        self.dtype = np.dtype(dtype).str
        self.bits = bits
        self.nonfinite = nonfinite
        check_vectors(np.dtype(dtype), (width,))

    @property
    def _form(self) -> Form:
        return Form(
            bits=cast("Bits", self.bits),
            width=self.width,
            dtype=np.dtype(self.dtype).newbyteorder("="),
            nonfinite=cast("Nonfinite", self.nonfinite),
        )

    def encode(self, buf: Any) -> Any:
        """Return the records of a chunk, uint8."""
        chunk = np.asarray(buf)
        if chunk.dtype != self.dtype or chunk.shape[-1:] != (self.width,):
            raise CodecError(
                f"{NAME}: the filter is for vectors of {self.width} {np.dtype(self.dtype)}, and the chunk is of shape {chunk.shape} "
                f"and {chunk.dtype}: set width={chunk.shape[-1] if chunk.ndim else 1} and dtype={chunk.dtype.str!r}."
            )
        if not chunk.flags.c_contiguous:
            raise CodecError(
                f"{NAME}: a chunk in Fortran order has no vectors that lie together; make the array with order='C'."
            )
        form = self._form
        return encode_chunk(
            chunk.reshape(-1, self.width).astype(form.dtype, copy=False), form, chunk.shape
        ).reshape(-1)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the values of a chunk, flat."""
        form = self._form
        data = ensure_contiguous_ndarray(buf).view(np.uint8).reshape(-1)
        rows, rest = divmod(len(data), form.record_bytes)
        if rest:
            raise CorruptError(
                f"{NAME}: {len(data)} bytes are no whole number of records of {form.record_bytes}: the chunk is damaged, or not of "
                "this codec. Restore it or write it again."
            )
        vectors = decode_chunk(data, form, rows).astype(self.dtype, copy=False)
        if out is not None and math.prod(np.shape(out)) not in (vectors.size, vectors.nbytes):
            raise CorruptError(f"{NAME}: {vectors.size} values where {np.shape(out)} are expected.")
        return ndarray_copy(vectors.reshape(-1), out)
