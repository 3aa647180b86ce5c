"""The real input that the demo, the examples and small tests run on.

Two files that ship inside the package: WordNet glosses with their sentence embeddings, and a clip of a simulated robot
episode. Origin and licences are in the ``NOTICE`` file beside them; ``benchmarks/make_demo_data.py`` wrote them and
describes their encoding.
"""

from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["EXAMPLE_TOPICS", "load_episode", "load_texts"]

EXAMPLE_TOPICS: Final = ("volcano", "violin", "vaccine", "submarine", "wine")
"""Lemmas that occur in the texts together with their close neighbours: good rows to search for."""


def load_texts() -> tuple[npt.NDArray[np.float32], list[str]]:
    """Load 4,000 WordNet glosses and their embeddings by all-MiniLM-L6-v2.

    The embeddings were shipped as int8 with a scale for each row, so they are the model's to about two decimal
    digits: enough to search by meaning, too coarse to measure recall with.

    Returns
    -------
    embeddings
        (4000, 384) float32, each row of unit length: use the metric ``"cosine"`` or ``"ip"``.
    texts
        The text of each row, as ``"lemma, lemma: gloss"``.

    Examples
    --------
    >>> from zarrvec.demo_data import load_texts
    >>> embeddings, texts = load_texts()
    >>> embeddings.shape, len(texts)
    ((4000, 384), 4000)
    >>> row = next(i for i, text in enumerate(texts) if text.startswith("wine, vino:"))
    >>> scores = embeddings @ embeddings[row]
    >>> texts[scores.argsort()[-2]]
    'vinify: convert a juice into wine by fermentation; "vinify grape juice"'
    """
    stored = _load("texts_minilm.npz")
    embeddings: npt.NDArray[np.float32] = stored["codes"] * stored["scales"][:, np.newaxis]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, stored["texts"].tobytes().decode().split("\n")


def load_episode() -> dict[str, npt.NDArray[Any]]:
    """Load the first 100 steps of a robot's episode: MuJoCo rendering Meta-World's drawer-open task.

    Returns
    -------
    dict
        ``rgb`` (100, 224, 224, 3) uint8, the camera's frames; ``state`` (100, 39) float64; ``action`` (100, 4)
        float32; ``reward`` (100,) float32. All are new arrays that the caller may change.

    Examples
    --------
    >>> from zarrvec.demo_data import load_episode
    >>> for name, values in load_episode().items():
    ...     print(name, values.shape, values.dtype)
    rgb (100, 224, 224, 3) uint8
    state (100, 39) float64
    action (100, 4) float32
    reward (100,) float32
    """
    stored = _load("robot_episode.npz")
    # Differences modulo 256 sum up to the frames themselves in uint8.
    rgb = np.cumsum(stored.pop("rgb_delta"), axis=0, dtype=np.uint8)
    return {"rgb": rgb, **stored}


def _load(name: str) -> dict[str, npt.NDArray[Any]]:
    with files(__name__).joinpath(name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
