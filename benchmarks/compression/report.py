"""How are the results told? As Markdown, from the JSON that `benchmarks.compression.run` writes.

``python -m benchmarks.compression.report RESULTS.json`` writes the Markdown again, without measuring anything.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

S3_DOLLARS = 23.0
"""A month of 10^12 bytes in S3 Standard, us-east-1, the first 50 TB."""

ZARR_DEFAULT = "zstd-3"
"""zarr's own default is zstd of level 0, which is that."""

_PREFACE = """\
# Compression: codecs on real arrays

Written by `python -m benchmarks.compression.run`; what it does is told in its docstring. Speeds are MB of decoded data a second on one
thread, by its time on a processor, on a machine with two cores that did nothing else. Dollars are what a month of 10^12 bytes (1 TB) of such data costs less in S3 Standard than raw, of
$23. Recall@10 is that of exact search by cosine over what is decoded, for 1,000 queries that aren't among the rows. Largest error is in units of the
data. In bold is what `zarrvec.plan` chooses by the set as its sample, in these chunks on S3, and for what: time of these reads, cost, or either where it may lose
0.01 of recall@10. It measures codecs itself, so where two are nearly as good another run may choose the other.

What to take from it: float32 embeddings hardly compress without loss. What shrinks them is loss: int8 keeps nearly all of the neighbours at a quarter of the
bytes. Frames are another matter: there plain zstd finds what blosc's small blocks miss, three times as much on the robot's.
"""


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    return "\n".join([_PREFACE, *(_set(name, found) for name, found in results.items())])


def _set(name: str, found: Mapping[str, Any]) -> str:
    lines = found["lines"]
    chosen = {
        codec: "; ".join(asked for asked, choice in found["choices"].items() if choice == codec)
        for codec in lines
    }
    lossy = any("largest_error" in line for line in lines.values())
    searched = any("recall" in line for line in lines.values())
    head = ["codec", "ratio", "encode MB/s", "decode MB/s", "$ saved a month per TB"]
    head += ["largest error"] * lossy + ["recall@10"] * searched
    rows = [
        [
            f"**{codec}** (planner: {chosen[codec]})" if chosen[codec] else codec,
            f"{line['ratio']:.2f}",
            f"{line['encode'] / 1e6:,.0f}",
            f"{line['decode'] / 1e6:,.0f}",
            f"{_saved(line):.2f}",
            *([f"{line['largest_error']:.2g}" if "largest_error" in line else "0"] * lossy),
            *([f"{line['recall']:.4f}" if "recall" in line else "1"] * searched),
        ]
        for codec, line in lines.items()
    ]
    shape = " x ".join(f"{size:,}" for size in found["shape"])
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return "\n".join(
        [
            f"## {name}: {found['told']}",
            "",
            f"{shape} {found['dtype']}, chunks of {' x '.join(map(str, found['chunks']))}. {found['date']}, Python {found['python']}, {versions}.",
            "",
            _row(head),
            _row(["---", *["---:"] * (len(head) - 1)]),
            *map(_row, rows),
            "",
            f"The planner, for {' and '.join(found['reads'])}, and what a month of 1 TB costs less than raw, and than by zarr's default:",
            "",
            *_choices(found),
            "",
        ]
    )


def _choices(found: Mapping[str, Any]) -> list[str]:
    saved = {codec: _saved(line) for codec, line in found["lines"].items()}
    return [
        f"- {asked}: {codec}, {_dollars(saved[codec])} and {_dollars(saved[codec] - saved[ZARR_DEFAULT])}"
        for asked, codec in found["choices"].items()
    ]


def _dollars(amount: float) -> str:
    return f"{'-' if amount < 0 else ''}${abs(amount):.2f}"


def _saved(line: Mapping[str, Any]) -> float:
    return float(S3_DOLLARS * (1 - 1 / line["ratio"]))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables again.")
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    arguments.results.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
