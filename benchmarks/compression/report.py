"""How are the results told? As Markdown, from the JSON that `benchmarks.compression.run` writes.

``python -m benchmarks.compression.report RESULTS.json [--choice minilm=sq-int8 ...]`` writes the Markdown again, without measuring
anything, and marks what the planner chooses.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

S3_DOLLARS = 23.0
"""A month of 10^12 bytes in S3 Standard, us-east-1, the first 50 TB."""

_PREFACE = """\
# Compression: codecs on real arrays

Written by `python -m benchmarks.compression.run`; what it does is told in its docstring. Speeds are MB of decoded data a second on one
thread, by its time on a processor. *They were measured on a machine with two cores that others kept busy, so they are low, and good to
compare lines of one table with each other only.* Dollars are what a month of 10^12 bytes (1 TB) of such data costs less in S3 Standard than raw, of
$23. Recall@10 is that of exact search by cosine over what is decoded, for 1,000 queries that aren't among the rows. Largest error is in units of the
data.

What to take from it: float32 embeddings hardly compress without loss. What shrinks them is loss: int8 keeps nearly all of the neighbours at a quarter of the
bytes. Frames are another matter: there plain zstd finds what blosc's small blocks miss, three times as much on the robot's.
"""


def markdown(results: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> str:
    """Return the whole document.

    Parameters
    ----------
    choices
        Name of the planner's choice for each set, to be marked.
    """
    return "\n".join(
        [_PREFACE, *(_set(name, found, (choices or {}).get(name)) for name, found in results.items())]
    )


def _set(name: str, found: Mapping[str, Any], choice: str | None) -> str:
    lines = found["lines"]
    if choice is not None and choice not in lines:
        raise SystemExit(f"{name}: {choice!r} is none of {', '.join(lines)}.")
    lossy = any("largest_error" in line for line in lines.values())
    searched = any("recall" in line for line in lines.values())
    head = ["codec", "ratio", "encode MB/s", "decode MB/s", "$ saved a month per TB"]
    head += ["largest error"] * lossy + ["recall@10"] * searched
    rows = [
        [
            f"**{codec}** (planner)" if codec == choice else codec,
            f"{line['ratio']:.2f}",
            f"{line['encode'] / 1e6:,.0f}",
            f"{line['decode'] / 1e6:,.0f}",
            f"{S3_DOLLARS * (1 - 1 / line['ratio']):.2f}",
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
        ]
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables again.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--choice", nargs="*", default=[], metavar="SET=CODEC")
    arguments = parser.parse_args()
    choices = dict(choice.split("=", 1) for choice in arguments.choice)
    results = json.loads(arguments.results.read_text())
    arguments.results.with_suffix(".md").write_text(markdown(results, choices))


if __name__ == "__main__":
    main()
