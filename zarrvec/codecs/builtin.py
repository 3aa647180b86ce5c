"""Which candidates does zarrvec itself offer?

Lossless are blosc's lz4 and zstd with both shuffles, plain zstd (blosc's small blocks miss what repeats between frames) and,
where the package ``pcodec`` is installed, pcodec. Lossy, for floats alone, are float16 and the scalar quantizer.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from zarrvec.codecs.bounds import ErrorBound
from zarrvec.codecs.quantizer import BITS, error_bound
from zarrvec.codecs.registry import Candidate

_FLOATS: Final = frozenset({"float16", "float32", "float64"})
_PCODEC: Final = _FLOATS | {"uint16", "uint32", "uint64", "int16", "int32", "int64"}
_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_ITEM_BYTES: Final = 255
"""Blosc shuffles items of at most this length."""
_ZSTD_LEVELS: Final = (1, 3, 9)
_FLOAT16: Final = ErrorBound(relative=2.0**-11, absolute=2.0**-25, largest=65504.0)
"""Half a unit in the last place; below 2^-14 half of the smallest float16."""


def offer(dtype: np.dtype[Any], chunk_shape: tuple[int, ...]) -> Iterator[Candidate]:
    """Yield zarrvec's own candidates.

    Examples
    --------
    >>> [candidate.name for candidate in offer(np.dtype("f4"), (100, 384)) if candidate.lossy]
    ['float16', 'float16-zstd', 'sq-int8', 'sq-int8-zstd', 'sq-int4', 'sq-int4-zstd']
    """
    yield Candidate(name="raw", in_format_2=True)
    yield from _blosc(dtype)
    for level in _ZSTD_LEVELS:
        yield Candidate(
            name=f"zstd-{level}", compressors=(_zstd(level),), in_format_2=True, compressor_2=_zstd_2(level)
        )
    if dtype.isnative and importlib.util.find_spec("pcodec") is not None:
        yield Candidate(
            name="pcodec",
            dtypes=_PCODEC,
            serializer={"name": "numcodecs.pcodec", "configuration": {"level": 8}},
            in_format_2=True,
            compressor_2={"id": "pcodec", "level": 8},
        )
    if dtype.kind == "f":
        yield from _float16(dtype)
        if chunk_shape:
            yield from _quantized(dtype, chunk_shape)


def _zstd(level: int) -> dict[str, Any]:
    return {"name": "zstd", "configuration": {"level": level, "checksum": False}}


def _zstd_2(level: int) -> dict[str, Any]:
    return {"id": "zstd", "level": level, "checksum": False}


def _blosc(dtype: np.dtype[Any]) -> Iterator[Candidate]:
    first = "shuffle" if 1 < dtype.itemsize <= _BLOSC_ITEM_BYTES else "noshuffle"
    for cname in ("lz4", "zstd"):
        for shuffle in (first, "bitshuffle"):
            yield Candidate(
                name=f"blosc-{cname}" + ("" if shuffle == "noshuffle" else f"-{shuffle}"),
                compressors=(blosc(cname, shuffle, dtype.itemsize),),
                in_format_2=True,
                compressor_2={"id": "blosc", "cname": cname, "clevel": 5, "shuffle": _SHUFFLES[shuffle], "blocksize": 0},
            )  # fmt: skip


def blosc(cname: str, shuffle: str, item_bytes: int) -> dict[str, Any]:
    """Return the configuration of blosc in format 3."""
    typesize = item_bytes if item_bytes <= _BLOSC_ITEM_BYTES else 1
    return {
        "name": "blosc",
        "configuration": {"cname": cname, "clevel": 5, "shuffle": shuffle, "typesize": typesize, "blocksize": 0},
    }  # fmt: skip


def _float16(dtype: np.dtype[Any]) -> Iterator[Candidate]:
    if dtype.itemsize <= 2:
        return
    cast = {"encode_dtype": "<f2", "decode_dtype": dtype.str}
    for name, compressors, compressor in (
        ("float16", (), None),
        ("float16-zstd", (blosc("zstd", "bitshuffle", 2),), _BLOSC_2_BYTES),
    ):
        yield Candidate(
            name=name,
            dtypes=_FLOATS,
            filters=({"name": "numcodecs.astype", "configuration": cast},),
            compressors=compressors,
            in_format_2=True,
            filters_2=({"id": "astype", **cast},),
            compressor_2=compressor,
            max_error=_FLOAT16,
        )


_BLOSC_2_BYTES: Final = {
    "id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0,
}  # fmt: skip


def _quantized(dtype: np.dtype[Any], chunk_shape: tuple[int, ...]) -> Iterator[Candidate]:
    for bits in BITS:
        filter_2 = {"id": "zarrvec.sq", "bits": bits, "dtype": dtype.str, "width": chunk_shape[-1]}
        for name, compressors, compressor in (
            (f"sq-int{bits}", (), None),
            (f"sq-int{bits}-zstd", (_zstd(3),), _zstd_2(3)),
        ):
            yield Candidate(
                name=name,
                dtypes=_FLOATS,
                serializer={"name": "zarrvec.sq", "configuration": {"bits": bits}},
                compressors=compressors,
                in_format_2=True,
                filters_2=(filter_2,),
                compressor_2=compressor,
                max_error=error_bound(dtype, bits),
            )
