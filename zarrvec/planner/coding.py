"""What does a codec make of the data?

Source: ``specs/planner.md``, section "Codecs".
"""

from typing import Final

from zarrvec.planner.layout import Coding
from zarrvec.planner.records import Codec

DEFAULT_CODEC: Final = Codec(
    name="zstd-3",
    compressors=({"name": "zstd", "configuration": {"level": 3, "checksum": False}},),
    compressor_2={"id": "zstd", "level": 3},
    encode_seconds=1 / 400e6,
    decode_seconds=1 / 1500e6,
)
"""What is planned for where there is no sample: it is taken to compress nothing, at typical speeds."""


def coding_of(codec: Codec) -> Coding:
    """Return what the cost model needs to know of a codec.

    Examples
    --------
    >>> coding_of(DEFAULT_CODEC).ratio
    1.0
    """
    return Coding(
        name=codec.name,
        ratio=codec.ratio,
        encode_seconds=codec.encode_seconds,
        decode_seconds=codec.decode_seconds,
    )
