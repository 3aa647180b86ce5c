"""Can all be read again that is written?"""

import random

import pytest

from zarrvec.errors import StorageError
from zarrvec.format.envelope import MAX_RAW_BYTES, Kind, unwrap, wrap

pytestmark = pytest.mark.once


def test_the_root_of_millions_of_packs():
    payload = random.Random(0).randbytes(MAX_RAW_BYTES + 1)
    assert unwrap(wrap(Kind.ROOT, payload), Kind.ROOT, name="x") == payload


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.PAGE, Kind.FOOTER])
def test_what_nobody_could_read_again_is_not_written(kind):
    with pytest.raises(
        StorageError, match=rf"{kind.name.lower()} of {MAX_RAW_BYTES + 1} bytes.*Nothing.*pack_bytes"
    ):
        wrap(kind, bytes(MAX_RAW_BYTES + 1))
