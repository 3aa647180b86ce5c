import numpy as np
import pytest

from zarrvec.errors import PlanError
from zarrvec.planner.access import Access, resolve
from zarrvec.planner.words import access_of

IMAGES = (500, 200, 3, 224, 224)
ALL = (None, None, None)


@pytest.mark.parametrize(
    ("words", "shape", "start", "scattered"),
    [
        ("one frame", (1, 1, *ALL), None, 0),
        ("a step", (1, 1, *ALL), None, 0),
        ("by episode", (1, None, *ALL), "aligned", 0),
        ("an episode at a time", (1, None, *ALL), "aligned", 0),
        ("window of 10", (1, 10, *ALL), None, 0),
        ("Window  of 10 steps", (1, 10, *ALL), None, 0),
        ("full scan", (None, None, *ALL), None, 0),
        ("whole column", (None, 1, 1, 1, 1), None, 0),
        ("random rows of 500", (1, None, *ALL), "anywhere", 500),
        ("32 random frames", (None, 1, *ALL), "anywhere", 32),
        ("rows of 4", (4, None, *ALL), "aligned", 0),
        ("append of 8 rows", (8, None, *ALL), "aligned", 0),
    ],
)
def test_words(words, shape, start, scattered):
    access = access_of(words, "read", 5)
    assert (access.shape, access.start, access.scattered) == (shape, start, scattered)


def test_words_with_names_of_axes():
    axes = ["time", "lat", "lon"]
    assert access_of("by time", "read", 3, axes).shape == (1, None, None)
    assert access_of("by lat", "read", 3, axes).shape == (None, 1, None)
    assert access_of("window of 24 times", "read", 3, axes).shape == (24, None, None)
    assert access_of("random lats of 5", "read", 3, axes).axis == 1


def test_weights():
    assert access_of(("one frame", 0.25), "read", 5).weight == 0.25
    assert access_of("one frame=0.25", "read", 5).weight == 0.25
    assert access_of(Access("read", (1, ...), weight=3), "read", 5).weight == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("sideways", "unknown words"),
        ("by planet", "unknown words"),
        ("one frame=much", "no number"),
        (7, "expected an Access"),
        (Access("write", (1,)), "is a write, given among the reads"),
    ],
)
def test_words_that_mean_nothing(asked, message):
    with pytest.raises(PlanError, match=message):
        access_of(asked, "read", 5)


def test_names_must_be_as_many_as_axes():
    with pytest.raises(PlanError, match="expected 5 different names"):
        access_of("by time", "read", 5, ["time"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "look"}, "kind='look'"),
        ({"weight": 0}, "weight=0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"start": "here"}, "start='here'"),
        ({"shape": (0,)}, "takes 0 cells along axis 0"),
        ({"shape": (1.5,)}, "1.5 along axis 0"),
        ({"shape": (..., 1, ...)}, "more than one"),
        ({"scattered": -1}, "scattered=-1"),
    ],
)
def test_accesses_that_make_no_sense(fields, message):
    with pytest.raises(PlanError, match=message):
        Access(**{"kind": "read", "shape": (1,), **fields})


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access("read", (1, 1, 1, 1, 1, 1)), "has 6 axes"),
        (Access("read", (501,)), "takes 501 cells along axis 0"),
        (Access("read", (slice(3, 3),)), "is empty"),
        (Access("read", (slice(0, 9, 2),)), "a step of 2"),
        (Access("read", (1,), scattered=2, axis=5), "axis=5"),
        (Access("read", (slice(1, 3),), scattered=2), "fixed slice"),
    ],
)
def test_accesses_that_do_not_fit(access, message):
    with pytest.raises(PlanError, match=message):
        resolve(access, IMAGES)


def test_slices_stand_where_they_are():
    pattern = resolve(Access("read", np.s_[2:4, ..., :7]), IMAGES)
    assert pattern.lengths == (2, 200, 3, 224, 7)
    assert pattern.starts == (2, 0, 0, 0, 0)


def test_what_fills_an_array():
    def fills(*given, **more):
        return resolve(Access(*given, **more), IMAGES).fills

    assert fills("write", (1, ...))
    assert fills("write", (None,))
    assert not fills("read", (1, ...))
    assert not fills("write", (1, ...), start="anywhere")
    assert not fills("write", np.s_[0:10])
    assert not fills("write", (1, ...), scattered=3)
