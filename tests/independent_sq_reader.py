"""A reader of ``zarrvec.sq`` that knows nothing but ``specs/codecs/sq.md``, and imports nothing of zarrvec."""

import math
import struct

import numpy as np

LARGEST = float(np.finfo(np.float32).max)


class RefusedError(Exception):
    """The specification says that a reader must refuse this."""


def read_chunk(data, shape, dtype, bits=8, nonfinite="refuse"):
    """Return the chunk that some bytes hold."""
    if bits not in (8, 4) or nonfinite not in ("refuse", "preserve"):
        raise RefusedError("configuration")
    width = shape[-1]
    size = 8 + (width if bits == 8 else -(-width // 2))
    if len(data) != size * math.prod(shape[:-1]):
        raise RefusedError("length")
    vectors = [
        read_vector(data[at : at + size], width, np.dtype(dtype), bits, nonfinite)
        for at in range(0, len(data), size)
    ]
    return np.array(vectors, dtype).reshape(shape)


def read_vector(record, width, dtype, bits, nonfinite):
    scale, offset = struct.unpack_from("<ff", record)
    codes = list(record[8:])
    if bits == 4:
        codes = [half for byte in codes for half in (byte & 15, byte >> 4)]
        if any(codes[width:]):
            raise RefusedError("a code after the last")
        codes = codes[:width]
    steps = (255 if bits == 8 else 15) - (3 if nonfinite == "preserve" else 0)
    if not (math.isfinite(scale) and scale >= 0):
        raise RefusedError("scale")
    if not math.isfinite(offset):
        if scale or nonfinite == "preserve":
            raise RefusedError("offset")
        return [dtype.type(offset)] * width
    most = LARGEST if dtype.itemsize == 8 else float(np.finfo(dtype).max)
    if max(abs(offset), abs(offset + scale * steps)) > most * (1 + 2.0**-20):
        raise RefusedError("range")
    special = {steps + 1: math.nan, steps + 2: math.inf, steps + 3: -math.inf}
    single = dtype.itemsize < 8
    overflows = abs(offset + scale * steps) > LARGEST
    if single:
        with np.errstate(all="ignore"):
            overflows = not np.isfinite(np.float32(offset) + np.float32(scale) * np.float32(steps))
    values = []
    for code in codes:
        if code in special:
            values.append(dtype.type(special[code]))
        elif single and not overflows:
            values.append((np.float32(offset) + np.float32(scale) * np.float32(code)).astype(dtype))
        else:
            exact = offset + scale * code
            exact = min(max(exact, -LARGEST), LARGEST) if overflows else exact
            values.append(np.float32(exact).astype(dtype) if single else np.float64(exact))
    return values
