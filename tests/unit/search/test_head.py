"""Is a head read as it was written, refused if it can't be, and does it say how many lists a recall takes?"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from zarrvec.errors import CorruptError, FormatVersionError
from zarrvec.search.head import Calibration, Curve, Head, new_id

VECTORS = Path(__file__).parents[3] / "specs" / "vectors"
HEAD: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())["l2"]["head"]


def test_what_follows_from_a_head():
    head = Head.decode(HEAD, name="x")
    assert (head.nlist, head.rows, head.covered, head.units, head.deleted) == (4, 40, 40, 0, 3)
    assert head.layout.entry_bytes == 22
    assert head.deleted_leading == (40,)
    assert head.segments[1].origin_crc32c is None


def test_heads_are_json():
    text = json.dumps(Head.decode(HEAD, name="x").encode(), allow_nan=False)
    assert Head.decode(json.loads(text), name="x") == Head.decode(HEAD, name="x")


def test_fields_of_later_versions_are_ignored():
    assert Head.decode({**HEAD, "colour": "blue"}, name="x") == Head.decode(HEAD, name="x")


def test_heads_from_before_there_were_two_fields_do_not_tell_how_the_array_was_stored():
    told = {name: value for name, value in HEAD.items() if name not in ("unit", "fill_value")}
    old = Head.decode({**told, "stored_as": "units of (10, 6), else 0.0"}, name="x")
    assert old.stored_as == (None, None)
    assert Head.decode(HEAD, name="x").stored_as == ((10, 6), 0.0)


def test_what_is_newer_says_so_whatever_it_is():
    with pytest.raises(FormatVersionError, match=r"x: format 7 .* reads up to 1"):
        Head.decode({"format": 7, "segments": "otherwise"}, name="x")


@pytest.mark.parametrize("value", [None, [], "head", 7, {}, {"format": 1}, {"format": "1"}, {"format": True}])
def test_what_is_no_head_is_refused(value):
    with pytest.raises(CorruptError, match=r"x: the attribute 'zarrvec_index'"):
        Head.decode(value, name="x")


@pytest.mark.parametrize("name", ["../up", "a/b", "", "A", "x" * 65, "naïve", ".", "zarr.json"])
def test_names_that_lead_elsewhere_are_refused(name):
    segments = [{**HEAD["segments"][0], "id": name}]
    with pytest.raises(CorruptError, match="id"):
        Head.decode({**HEAD, "segments": segments}, name="x")


@pytest.mark.parametrize("field", ["trained_spread", "second_from"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(field, number):
    with pytest.raises(CorruptError, match="finite"):
        Head.decode({**HEAD, field: number}, name="x")


def test_names_are_new():
    assert len({new_id() for _ in range(1000)}) == 1000


def calibration(*curves: Curve) -> Calibration:
    return Calibration(source="rows", queries=100, nprobe=(1, 2, 4, 8, 16), curves=curves, far=1.0)


def curve(k: int, *recall: float, error: float = 0.0, loss: float = 0.0) -> Curve:
    return Curve(k=k, recall=recall, error=(error,) * len(recall), loss={"4": 0.2, "8": loss})


def test_more_recall_takes_more_lists():
    known = calibration(curve(10, 0.3, 0.5, 0.8, 0.9, 1.0, error=0.01))
    taken = [known.nprobe_for(recall, 10, bits=None) for recall in np.linspace(0.01, 1, 100)]
    assert None not in taken
    assert taken == sorted(taken)  # type: ignore[type-var]
    assert (taken[0], taken[-1]) == (1, 16)
    assert known.nprobe_for(0.8, 10, bits=None) == 5  # 4 had it but for the standard error


def test_a_curve_that_falls_is_not_followed_down():
    known = calibration(curve(10, 0.3, 0.9, 0.85, 0.86, 1.0))
    assert known.nprobe_for(0.9, 10, bits=None) == 2


def test_what_codes_lose_is_made_up_for_or_can_not_be():
    known = calibration(curve(10, 0.3, 0.5, 0.8, 0.9, 1.0, loss=0.1))
    assert known.nprobe_for(0.8, 10, bits=8) == known.nprobe_for(0.9, 10, bits=None) == 8
    assert known.nprobe_for(0.95, 10, bits=8) is None
    assert known.nprobe_for(0.8, 10, bits=4) == 16


def test_all_lists_are_enough_for_every_recall():
    known = calibration(curve(10, 0.3, 0.5, 0.8, 0.9, 0.99))
    assert known.nprobe_for(1.0, 10, bits=None) == 16


def test_beyond_the_last_curve_that_holds():
    known = calibration(curve(1, 0.95, 1, 1, 1, 1), curve(10, 0.5, 0.95, 1, 1, 1))
    assert known.nprobe_for(0.95, 10, bits=None) == 2
    assert known.nprobe_for(0.95, 10**9, bits=None) == 2


def test_between_curves_the_next_one_holds():
    known = calibration(curve(1, 0.95, 1, 1, 1, 1), curve(10, 0.5, 0.95, 1, 1, 1))
    assert known.nprobe_for(0.95, 2.5, bits=None) == known.nprobe_for(0.95, 10, bits=None)


def test_heads_do_not_change():
    with pytest.raises(AttributeError):
        Head.decode(HEAD, name="x").revision = "b"  # type: ignore[misc]
    assert msgspec.structs.replace(Head.decode(HEAD, name="x"), revision="b").revision == "b"
