"""The data that ships with the package: whole, faithful to its source, and small."""

import gzip
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from zarrvec.demo_data import EXAMPLE_TOPICS, load_episode, load_texts

MAX_TOTAL_BYTES = 3_000_000
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the data that the demo's was cut from is not beside this checkout"
)


def test_the_embeddings_are_unit_vectors_with_one_text_each():
    embeddings, texts = load_texts()
    assert embeddings.shape == (4000, 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert len(texts) == 4000
    assert all(": " in text for text in texts)


@pytest.mark.parametrize("topic", EXAMPLE_TOPICS)
def test_searching_for_an_example_topic_finds_related_texts(topic):
    embeddings, texts = load_texts()
    row = next(i for i, text in enumerate(texts) if topic in text.split(": ")[0].split(", "))
    scores = embeddings @ embeddings[row]
    nearest = np.argsort(-scores)
    assert nearest[0] == row
    assert scores[nearest[1:4]].min() > 0.5
    assert np.median(scores) < 0.2


def test_the_episode_is_a_moving_picture_with_the_robots_state():
    episode = load_episode()
    assert {name: (values.shape, values.dtype.name) for name, values in episode.items()} == {
        "rgb": ((100, 224, 224, 3), "uint8"),
        "state": ((100, 39), "float64"),
        "action": ((100, 4), "float32"),
        "reward": ((100,), "float32"),
    }
    steps = np.abs(np.diff(episode["rgb"].astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    assert (steps > 0).all()
    assert steps.max() < 3, "consecutive frames differ in little; a wrong sum of differences would be noise"


def test_loaded_arrays_are_the_callers_own():
    load_episode()["rgb"][:] = 0
    assert load_episode()["rgb"].any()


def test_files_and_their_notice_are_in_the_package_and_small():
    directory = files("zarrvec.demo_data")
    notice = directory.joinpath("NOTICE").read_text(encoding="utf-8")
    assert "Princeton University" in notice
    assert "Apache License" in notice
    sizes = [len(file.read_bytes()) for file in directory.iterdir() if file.name.endswith(".npz")]
    assert len(sizes) == 2
    assert sum(sizes) <= MAX_TOTAL_BYTES


@needs_shared_data
def test_texts_and_embeddings_are_those_of_the_source():
    embeddings, texts = load_texts()
    with gzip.open(SHARED_DATA / "text_minilm" / "texts.json.gz", "rt", encoding="utf-8") as file:
        row_of = {text: row for row, text in enumerate(json.load(file))}
    source = np.load(SHARED_DATA / "text_minilm" / "base.npy")[[row_of[text] for text in texts]]
    assert (embeddings * source).sum(axis=1).min() > 0.999


@needs_shared_data
def test_the_frames_are_exactly_those_of_the_source():
    with np.load(SHARED_DATA / "robot" / "ep_02_drawer-open-v3.npz") as source:
        for name, values in load_episode().items():
            np.testing.assert_array_equal(values, source[name][:100])
