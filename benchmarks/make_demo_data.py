"""Writes the two small files of real data that ship inside the package, in ``zarrvec/demo_data``.

Run it from the root of a checkout that has the shared data beside it::

    .venv/bin/python benchmarks/make_demo_data.py [--source ../shared/data] [--target zarrvec/demo_data]

It is deterministic: the same source writes the same arrays. What it writes is read back by ``zarrvec.demo_data``, whose
loaders undo the two encodings used here, chosen to keep the wheel small with nothing but numpy and zlib:

``texts_minilm.npz``
    4,000 of the 32,000 WordNet 3.0 glosses, with their all-MiniLM-L6-v2 embeddings. ``codes`` (n, 384) int8 and
    ``scales`` (n,) float32: a row is ``codes * scale``, and unit length again after division by its norm. ``texts``:
    the texts as UTF-8, joined by line feeds. Rows: the closest neighbours of each of ``TOPICS``, so that a search for
    one of them finds its family, and every k-th of the others, so that it has something to reject.

``robot_episode.npz``
    The first 100 steps of a MuJoCo (Meta-World, drawer-open) episode. ``rgb_delta`` (100, 224, 224, 3) uint8: the
    first frame, then the difference to the frame before, modulo 256, which deflates ten times better than the frames.
    ``state`` (100, 39) float64, ``action`` (100, 4) float32, ``reward`` (100,) float32, as recorded.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

TEXT_ROWS = 4_000
NEIGHBOURS = 60  # rows kept around each topic, itself included
TOPICS = (
    "anger", "atom", "bacteria", "butter", "cathedral", "desert", "election", "glaciation", "helicopter",
    "lizard", "marriage", "medicine", "mushroom", "oak", "orchestra", "painter", "penguin", "planet", "rain", "sail", "soccer",
    "submarine", "surgeon", "vaccine", "violin", "volcano", "wine",
)  # fmt: skip
EPISODE = "ep_02_drawer-open-v3.npz"
EPISODE_STEPS = 100


def choose_rows(embeddings: npt.NDArray[np.float32], texts: list[str]) -> npt.NDArray[np.intp]:
    """Return the rows to ship, ascending: the neighbours of each topic, then every k-th of the rest."""
    first_with_lemma: dict[str, int] = {}
    for row, text in enumerate(texts):
        for lemma in text.split(": ", 1)[0].split(", "):
            first_with_lemma.setdefault(lemma, row)
    chosen = np.zeros(len(texts), dtype=bool)
    for topic in TOPICS:
        scores = embeddings @ embeddings[first_with_lemma[topic]]
        chosen[np.argsort(-scores, kind="stable")[:NEIGHBOURS]] = True
    rest = np.flatnonzero(~chosen)
    missing = TEXT_ROWS - int(chosen.sum())
    chosen[rest[np.linspace(0, len(rest) - 1, missing).astype(np.intp)]] = True
    return np.flatnonzero(chosen)


def write_texts(source: Path, target: Path) -> None:
    embeddings = np.load(source / "text_minilm" / "base.npy")
    with gzip.open(source / "text_minilm" / "texts.json.gz", "rt", encoding="utf-8") as file:
        texts: list[str] = json.load(file)
    rows = choose_rows(embeddings, texts)
    kept = embeddings[rows]
    scales = np.abs(kept).max(axis=1) / 127
    codes = np.rint(kept / scales[:, np.newaxis]).astype(np.int8)
    blob = np.frombuffer("\n".join(texts[row] for row in rows).encode(), dtype=np.uint8)
    np.savez_compressed(target, codes=codes, scales=scales.astype(np.float32), texts=blob)
    print(f"{target}: {len(rows):,} texts, {target.stat().st_size:,} bytes")


def write_episode(source: Path, target: Path) -> None:
    with np.load(source / "robot" / EPISODE) as episode:
        rgb, state, action, reward = (
            episode[name][:EPISODE_STEPS] for name in ("rgb", "state", "action", "reward")
        )
    delta = rgb.copy()
    delta[1:] -= rgb[:-1]
    np.savez_compressed(target, rgb_delta=delta, state=state, action=action, reward=reward)
    print(f"{target}: {len(rgb)} frames, {target.stat().st_size:,} bytes")


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Write the demo's data files from the shared data.")
    parser.add_argument("--source", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--target", type=Path, default=here / "zarrvec" / "demo_data")
    arguments = parser.parse_args()
    write_texts(arguments.source, arguments.target / "texts_minilm.npz")
    write_episode(arguments.source, arguments.target / "robot_episode.npz")


if __name__ == "__main__":
    main()
