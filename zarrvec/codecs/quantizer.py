"""How do vectors become codes of 8 or 4 bits with a scale and an offset each, and how far off is what they say?

Pure. Source: ``specs/codecs/sq.md``, sections "Records" and "Error".
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.codecs.bounds import ErrorBound
from zarrvec.errors import CodecError, CorruptError

Bits: TypeAlias = Literal[8, 4]
Nonfinite: TypeAlias = Literal["refuse", "preserve"]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[Any]

BITS: Final = (8, 4)
NONFINITE: Final = ("refuse", "preserve")
DTYPES: Final = ("float16", "float32", "float64")
HEAD: Final = np.dtype([("scale", "<f4"), ("offset", "<f4")])
"""What stands before the codes of each vector."""
RESERVED: Final = (np.nan, np.inf, -np.inf)
"""What the highest codes stand for where values that aren't finite are preserved, in their order."""
_BLOCK_BYTES: Final = 256 << 10
"""Decoded bytes that go through all steps while they are in the processor's cache."""
_NEAR: Final = 2
"""Units in the last place."""
_LARGEST: Final = float(np.finfo(np.float32).max)
_ROUNDING: Final = 1 + 2.0**-20
"""How far above the largest finite value the end of a vector may lie by rounding up its scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the records of a chunk look like.

    Examples
    --------
    >>> form = Form(bits=4, width=5, dtype=np.dtype("f4"))
    >>> form.record_bytes, form.steps
    (11, 15)
    """

    bits: Bits
    width: int
    """Elements of a vector."""
    dtype: np.dtype[Any]
    """Of the elements, in this machine's byte order."""
    nonfinite: Nonfinite = "refuse"

    @property
    def record_bytes(self) -> int:
        """Bytes of a vector."""
        return HEAD.itemsize + (self.width * self.bits + 7) // 8

    @property
    def steps(self) -> int:
        """The highest code of a finite value."""
        return (1 << self.bits) - 1 - (len(RESERVED) if self.nonfinite == "preserve" else 0)

    @property
    def _arithmetic(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.dtype.itemsize == 8 else np.float32)

    @property
    def _block_rows(self) -> int:
        return max(1, _BLOCK_BYTES // (self.width * self._arithmetic.itemsize))


class NotStorableError(CodecError):
    """A value can't be held by codes.

    Parameters
    ----------
    message
        What is wrong with it.
    row, column
        Which vector, and which of its elements.
    """

    def __init__(self, message: str, *, row: int, column: int) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


def encode(vectors: Floats, form: Form, *, fill: float | None = None) -> Bytes:
    """Return the records of vectors.

    Parameters
    ----------
    vectors
        (n, d) floats of the form's dtype.
    fill
        A value that isn't finite of which a whole vector may consist even where such values are refused: the fill value of an
        array, which zarr puts where a chunk reaches over the array's edge.

    Returns
    -------
    (n, record_bytes) uint8.

    Raises
    ------
    NotStorableError
        If a value isn't finite and `form` refuses that, or is above the largest float32.

    Examples
    --------
    >>> form = Form(bits=8, width=3, dtype=np.dtype("f4"))
    >>> encode(np.array([[0, 1, 255]], "f4"), form).tolist()
    [[0, 0, 128, 63, 0, 0, 0, 0, 0, 1, 255]]
    """
    records = np.zeros((len(vectors), form.record_bytes), np.uint8)
    with np.errstate(all="ignore"):
        for start in range(0, len(vectors), form._block_rows):
            part = vectors[start : start + form._block_rows].astype(form._arithmetic, copy=False)
            _encode_block(part, form, fill, records[start : start + len(part)], start)
    return records


def decode(records: Bytes, form: Form) -> Floats:
    """Return the vectors of records.

    Parameters
    ----------
    records
        (n, record_bytes) uint8.

    Returns
    -------
    (n, d) of the form's dtype.

    Raises
    ------
    CorruptError
        If the records can't have been written by `encode`.

    Examples
    --------
    >>> form = Form(bits=4, width=3, dtype=np.dtype("f2"))
    >>> decode(encode(np.array([[0, 1, 15], [7, 7, 7]], "f2"), form), form).tolist()
    [[0.0, 1.0, 15.0], [7.0, 7.0, 7.0]]
    """
    heads = np.ascontiguousarray(records[:, : HEAD.itemsize]).view(HEAD)[:, 0]
    scale, offset = heads["scale"].astype(np.float32), heads["offset"].astype(np.float32)
    with np.errstate(all="ignore"):
        overflowing = _check(scale, offset, records, form)
        out = np.empty((len(records), form.width), form.dtype)
        for start in range(0, len(records), form._block_rows):
            rows = slice(start, start + form._block_rows)
            _decode_block(
                records[rows, HEAD.itemsize :], scale[rows, None], offset[rows, None], form, out[rows]
            )
        if len(overflowing):
            codes = _codes_of(records[overflowing, HEAD.itemsize :], form)
            exact = codes * scale[overflowing, None].astype(np.float64) + offset[overflowing, None]
            limited = np.clip(exact, -_LARGEST, _LARGEST)
            out[overflowing] = np.where(codes > form.steps, out[overflowing], limited)
    return out


def declared_error(records: Bytes, vectors: Floats, form: Form) -> npt.NDArray[np.float64]:
    """Return how far what is decoded may be from each element of the vectors that the records were made of.

    Parameters
    ----------
    records
        (n, record_bytes) uint8.
    vectors
        (n, d) finite floats.

    Returns
    -------
    (n, d) float64.

    Examples
    --------
    >>> form = Form(bits=8, width=3, dtype=np.dtype("f4"))
    >>> vectors = np.array([[0, 1, 255], [3, 3, 3]], "f4")
    >>> declared_error(encode(vectors, form), vectors, form).round(3).tolist()
    [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]
    """
    scales = np.ascontiguousarray(records[:, : HEAD.itemsize]).view(HEAD)["scale"].astype(np.float64)
    rounding = _rounding(form.dtype)
    magnitudes = np.abs(vectors.astype(np.float64))
    return (0.5 + 2.0**-13) * scales + rounding.relative * magnitudes + rounding.absolute


def error_bound(dtype: np.dtype[Any], bits: Bits, nonfinite: Nonfinite = "refuse") -> ErrorBound:
    """Return the same for vectors of which nothing but their range is known.

    Examples
    --------
    >>> round(error_bound(np.dtype("f4"), 8).of_range * 255, 3)
    0.5
    """
    steps = Form(bits=bits, width=1, dtype=dtype, nonfinite=nonfinite).steps
    return replace(_rounding(dtype), of_range=(0.5 + 2.0**-12) / steps, largest=_LARGEST)


def _rounding(dtype: np.dtype[Any]) -> ErrorBound:
    if dtype.itemsize == 2:
        return ErrorBound(relative=2.0**-11 + 2.0**-23, absolute=2.0**-25)
    return ErrorBound(relative=2.0**-23, absolute=2.0**-149)


def _encode_block(part: Floats, form: Form, fill: float | None, records: Bytes, first: int) -> None:
    special = None
    filled = np.zeros(len(part), np.bool_)
    low, high = part.min(axis=1), part.max(axis=1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        special = ~np.isfinite(part)
        if form.nonfinite == "refuse":
            filled = _filled(part, special, form, fill, first)
        none = special.all(axis=1)
        low = np.where(none, 0, np.where(special, np.inf, part).min(axis=1))
        high = np.where(none, 0, np.where(special, -np.inf, part).max(axis=1))
    if part.dtype.itemsize == 8:
        _check_size(part, low, high, first)
    heads = np.empty(len(part), HEAD)
    heads["offset"] = _below(low)
    heads["scale"] = _scales(heads["offset"], high, form)
    codes = _codes(part, heads, form)
    if special is not None:
        if form.nonfinite == "preserve":
            codes[special] = form.steps + 1 + _kinds(part[special])
        else:
            heads["offset"][filled], codes[filled] = fill, 0
    records[:, : HEAD.itemsize] = heads.view(np.uint8).reshape(-1, HEAD.itemsize)
    records[:, HEAD.itemsize :] = codes if form.bits == 8 else _pack(codes)


def _filled(
    part: Floats, special: npt.NDArray[np.bool_], form: Form, fill: float | None, first: int
) -> npt.NDArray[np.bool_]:
    """Return which vectors are nothing but the fill value; raise for other values that are refused."""
    filled: npt.NDArray[np.bool_] = np.zeros(len(part), np.bool_)
    if fill is not None:
        filled |= (special & (np.isnan(part) if np.isnan(fill) else part == fill)).all(axis=1)
    wrong = np.argwhere(special & ~filled[:, None])
    if len(wrong):
        row, column = wrong[0].tolist()
        raise NotStorableError(
            f"{part[row, column]} can't be held by codes of a vector's range; write a number there, or create the array with "
            f"nonfinite='preserve', which takes {len(RESERVED)} of the {1 << form.bits} codes",
            row=first + row,
            column=column,
        )
    return filled


def _check_size(part: Floats, low: Floats, high: Floats, first: int) -> None:
    rows = np.flatnonzero(np.maximum(np.abs(low), np.abs(high)) > _LARGEST)
    if len(rows):
        row = int(rows[0])
        column = int(np.flatnonzero(np.isfinite(part[row]) & (np.abs(part[row]) > _LARGEST))[0])
        raise NotStorableError(
            f"{part[row, column]} is above the largest float32, {_LARGEST:.4g}, which scale and offset are; write a smaller "
            "number, or store the array without this codec",
            row=first + row,
            column=column,
        )


def _below(values: Floats) -> npt.NDArray[np.float32]:
    """Round to float32, downwards."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _scales(offset: npt.NDArray[np.float32], high: Floats, form: Form) -> npt.NDArray[np.float32]:
    """Return the least scale near the quotient with which the highest code is read as no less than the greatest element.

    What is read then has the same scale when it is encoded again.
    """
    span = high.astype(np.float64) - offset
    scale = (span / form.steps).astype(np.float32)
    for _ in range(_NEAR):
        scale = np.maximum(np.nextafter(scale, np.float32(0)), 0)
    for _ in range(2 * _NEAR):
        end, _ = _ends(scale, offset, form)
        scale = np.where(end < high, np.nextafter(scale, np.float32(np.inf)), scale)
    return scale


def _ends(
    scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32], form: Form
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return as what the highest code is read, and which vectors overflow float32 on the way there."""
    exact = offset + scale.astype(np.float64) * form.steps
    if form.dtype.itemsize == 8:
        return np.clip(exact, -_LARGEST, _LARGEST), (np.abs(exact) > _LARGEST) & np.isfinite(offset)
    end = offset + scale * np.float32(form.steps)
    over = ~np.isfinite(end) & np.isfinite(offset)
    end[over] = np.clip(exact[over], -_LARGEST, _LARGEST)
    return end.astype(form.dtype), over


def _codes(part: Floats, heads: npt.NDArray[Any], form: Form) -> Bytes:
    codes = _rounded(part, heads, form)
    if part.dtype.itemsize == 4:
        wide = np.flatnonzero(~np.isfinite(np.float32(form.steps) * heads["scale"]))
        if len(wide):
            codes[wide] = _rounded(part[wide].astype(np.float64), heads[wide], form)
    return codes


def _rounded(part: Floats, heads: npt.NDArray[Any], form: Form) -> Bytes:
    scale, offset = heads["scale"][:, None], heads["offset"][:, None]
    codes: Floats = part - offset
    codes /= np.where(scale > 0, scale, np.float32(1))
    np.rint(codes, out=codes)
    np.clip(codes, 0, form.steps, out=codes)
    return codes.astype(np.uint8)


def _kinds(values: Floats) -> Bytes:
    """Return the place of each among `RESERVED`."""
    return np.where(np.isnan(values), 0, np.where(values > 0, 1, 2)).astype(np.uint8)


def _pack(codes: Bytes) -> Bytes:
    even = codes[:, ::2].copy()
    even[:, : codes.shape[1] // 2] |= codes[:, 1::2] << 4
    return even


def _unpack(packed: Bytes, width: int) -> Bytes:
    pairs: npt.NDArray[Any] = packed.astype("<u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)[:, :width]


def _check(
    scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32], records: Bytes, form: Form
) -> npt.NDArray[np.intp]:
    """Raise if no encoder writes such records; return those whose values overflow while they are computed in float32."""
    end = offset + scale * np.float64(form.steps)
    largest = min(_LARGEST, float(np.finfo(form.dtype).max)) * _ROUNDING
    right = (scale >= 0) & (np.abs(offset) <= largest) & (np.abs(end) <= largest)
    if form.nonfinite == "refuse":
        right |= (scale == 0) & ~np.isfinite(offset)
    if form.bits == 4 and form.width % 2:
        right &= records[:, -1] < 16
    if not right.all():
        row = int(np.argmin(right))
        raise CorruptError(
            f"vector {row} has the scale {scale[row]}, the offset {offset[row]} and the last byte {records[row, -1]}, which no "
            "encoder writes together"
        )
    return np.flatnonzero(_ends(scale, offset, form)[1])


def _codes_of(packed: Bytes, form: Form) -> Bytes:
    return packed if form.bits == 8 else _unpack(packed, form.width)


def _decode_block(packed: Bytes, scale: Floats, offset: Floats, form: Form, out: Floats) -> None:
    codes = _codes_of(packed, form)
    values = out if out.dtype == form._arithmetic else np.empty(out.shape, form._arithmetic)
    values[...] = codes
    values *= scale
    values += offset
    if form.nonfinite == "preserve":
        special = codes > form.steps
        if special.any():
            values[special] = np.array(RESERVED, values.dtype)[codes[special] - (form.steps + 1)]
    if values is not out:
        out[...] = values
