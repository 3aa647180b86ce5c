"""How small do codecs make real arrays, how fast are they, and what do the lossy ones lose?

Run it from the root of a checkout that has the shared data beside it, in an environment with zarrvec and pcodec
(``pip install 'zarrvec[pcodec]'``)::

    python -m benchmarks.compression.run [--sets minilm glove robot pusht era_like]
        [--cache DIR] [--shared DIR] [--results benchmarks/compression/results.json]

It writes the results as JSON and, beside it, as Markdown (``benchmarks.compression.report``). A set that is measured replaces what the
file had of it; others stay. Measured are all of zarrvec's own candidates, as Zarr format 2 has them: one thread encodes and decodes
chunk by chunk, with nothing stored, and speeds are decoded bytes by the seconds of this thread on a processor, so that others who
keep the machine busy matter less. Recall is of exact search by cosine: which part of the 10 rows nearest by what is decoded is among
the 10 nearest by what was written, ties counted as right.

The planner is asked for each set, with the set as its sample, these chunks, and reads of such an array on S3: for time and for cost, and for
embeddings also where a lossy codec may lose 0.01 of recall@10. What it chooses is marked in the tables.
"""

import argparse
import datetime as dt
import importlib.metadata
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numcodecs.blosc
import numpy as np
import numpy.typing as npt

import zarrvec
from benchmarks import datasets
from benchmarks.compression import report
from benchmarks.compression.sets import SETS, Sample
from zarrvec.codecs.builtin import offer
from zarrvec.codecs.registry import Candidate

K = 10
MAX_RECALL_LOSS = 0.01
SAMPLE_BYTES = 16 << 20
"""Of a set, as the planner's sample."""
_SECONDS = 0.4
"""A measurement is repeated until it took so long, at most `_REPEATS` times; the fastest counts."""
_REPEATS = 5

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure codecs on real arrays.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cache", type=Path, default=datasets.default_cache())
    parser.add_argument("--shared", type=Path, default=datasets.default_shared())
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    numcodecs.blosc.use_threads = False
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.sets:
        print(name)
        results[name] = measure_set(SETS[name](arguments.cache, arguments.shared))
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    arguments.results.with_suffix(".md").write_text(report.markdown(results))


def measure_set(sample: Sample) -> dict[str, Any]:
    truth = None if sample.queries is None else nearest(sample.data, sample.queries)
    lines = {}
    for candidate in offer(sample.data.dtype, sample.chunks):
        if not candidate.takes(sample.data.dtype):
            continue
        lines[candidate.name] = line = measure(candidate, sample)
        decoded = line.pop("decoded")
        if candidate.max_error is not None:
            line["largest_error"] = float(np.abs(decoded.astype(np.float64) - sample.data).max())
            if truth is not None and sample.queries is not None:
                line["recall"] = recall(sample, nearest(decoded, sample.queries), truth)
        else:
            np.testing.assert_array_equal(decoded, sample.data)
        print(f"  {candidate.name}: { ({key: round(value, 4) for key, value in line.items()}) }")
    return {
        "told": sample.told,
        "shape": sample.data.shape,
        "dtype": str(sample.data.dtype),
        "chunks": sample.chunks,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "reads": sample.reads,
        "choices": choices(sample),
        "versions": {name: importlib.metadata.version(name) for name in ("zarrvec", "numcodecs", "numpy", "pcodec")},
        "lines": lines,
    }  # fmt: skip


def choices(sample: Sample) -> dict[str, str]:
    """Return which codec the planner chooses, by what is asked of it."""
    rows = max(1, SAMPLE_BYTES // sample.data[0].nbytes)
    asked: dict[str, dict[str, Any]] = {"time": {"objective": "time"}, "cost": {"objective": "cost"}}
    if sample.queries is not None:
        lossy = {"max_recall_loss": MAX_RECALL_LOSS}
        asked |= {f"{name}, lossy": {**options, **lossy} for name, options in asked.items()}
    return {
        name: zarrvec.plan(
            sample.data.shape,
            sample.data.dtype,
            reads=sample.reads,
            sample=sample.data[:rows],
            fixed=dict(enumerate(sample.chunks)),
            **options,
        ).codec.name
        for name, options in asked.items()
    }


def measure(candidate: Candidate, sample: Sample) -> dict[str, Any]:
    """Return ratio, speeds in bytes a second, and what is decoded."""
    options = candidate.options(2)
    codecs = [*(options["filters"] or ()), *([options["compressors"]] if options["compressors"] else ())]
    chunks = [np.ascontiguousarray(sample.data[place]) for place in places(sample)]

    def encode() -> list[Any]:
        return [_encode(codecs, chunk) for chunk in chunks]

    encode_seconds, encoded = fastest(encode)

    def decode() -> list[npt.NDArray[Any]]:
        return [_decode(codecs, data, chunk) for data, chunk in zip(encoded, chunks, strict=True)]

    decode_seconds, parts = fastest(decode)
    decoded = np.empty_like(sample.data)
    for place, part in zip(places(sample), parts, strict=True):
        decoded[place] = part
    size = sum(memoryview(data).nbytes for data in encoded)
    return {
        "ratio": sample.data.nbytes / size,
        "encode": sample.data.nbytes / encode_seconds,
        "decode": sample.data.nbytes / decode_seconds,
        "decoded": decoded,
    }


def _encode(codecs: list[Any], chunk: npt.NDArray[Any]) -> Any:
    data: Any = chunk
    for codec in codecs:
        data = codec.encode(data)
    return data if codecs else chunk.copy()


def _decode(codecs: list[Any], data: Any, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    for codec in reversed(codecs):
        data = codec.decode(data)
    found = np.frombuffer(data, like.dtype) if not isinstance(data, np.ndarray) else data.view(like.dtype)
    return found.reshape(like.shape) if codecs else found.copy()


def places(sample: Sample) -> Iterator[tuple[slice, ...]]:
    """Yield where the chunks are; those at the edge are shorter."""
    axes = zip(sample.data.shape, sample.chunks, strict=True)
    return itertools.product(*([slice(at, at + step) for at in range(0, size, step)] for size, step in axes))


def fastest(act: Callable[[], T]) -> tuple[float, T]:
    """Return the least seconds of this thread on a processor, and what the act returned."""
    best, spent, result = float("inf"), 0.0, None
    for _ in range(_REPEATS):
        start = time.thread_time()
        result = act()
        seconds = time.thread_time() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > _SECONDS:
            break
    assert result is not None
    return best, result


def nearest(rows: npt.NDArray[Any], queries: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return (q, 10): the rows nearest by cosine."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))
    scores = queries @ unit.T
    return np.argpartition(-scores, K, axis=1)[:, :K]


def recall(sample: Sample, found: npt.NDArray[np.intp], truth: npt.NDArray[np.intp]) -> float:
    """Return the part of what is found that is as near as the least of the truth."""
    assert sample.queries is not None
    unit = sample.data / np.linalg.norm(sample.data, axis=1, keepdims=True)
    of_truth = np.einsum("qd,qkd->qk", sample.queries, unit[truth]).min(axis=1, keepdims=True)
    of_found = np.einsum("qd,qkd->qk", sample.queries, unit[found])
    return float((of_found >= of_truth - 1e-6 * np.abs(of_truth)).mean())


if __name__ == "__main__":
    main()
