"""How are the results told? As Markdown, from the JSON that `benchmarks.salus.run` writes."""

from collections.abc import Mapping
from typing import Any

_TOLD = {
    "automatic-plain": "zarr's automatic chunks, plain store",
    "automatic": "zarr's automatic chunks, zarrvec",
    "planned": "planned, zarrvec",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    some = next(iter(next(iter(results.values())).values()))
    count = len(some["writes"])
    versions = ", ".join(f"{package} {version}" for package, version in some["versions"].items())
    lines = [
        "# Robot episodes, recorded one by one",
        "",
        "Written by `benchmarks.salus.run`; what it does is told in its docstring. Bytes and requests are counted by a proxy before the S3 server.",
        "",
        (
            f"images (500, 200, 3, 224, 224) uint8 on S3 at {some['latency_ms']:.0f} ms, of which {count} episodes of "
            f"{some['episode_bytes'] / 1e6:.1f} MB are written. {some['machine']['cores']} cores; {versions}."
        ),
        "",
        "The amplification is bytes written by bytes that the array has at the end. A chunk that spans all of the episodes is written again",
        f"with each: by arithmetic {(count + 1) / 2:.1f} times.",
    ]
    for frames in sorted(results, reverse=True):
        found = {name: results[frames][name] for name in _TOLD if name in results[frames]}
        lines += [
            "",
            f"## {frames.capitalize()} frames",
            "",
            _command(frames, found),
            "",
            "| layout | chunks, codec | MB written | MB stored | amplification | MB read | requests | s | s, last episode | date |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
            *(_written(name, line) for name, line in found.items()),
            "",
            f"Read from the {count} episodes; medians:",
            "",
            "| layout | access | requests | rounds | MB | ms |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *(_read(name, access, line) for name, line in found.items() for access in line["reads"]),
        ]
        if "planned" in found:
            lines += ["", *_compared(found)]
    return "\n".join(lines) + "\n"


def _command(frames: str, found: Mapping[str, Any]) -> str:
    counted = "" if all(line["timed"] for line in found.values()) else " --counts-only"
    return f"`python -m benchmarks.salus.run --layouts {' '.join(found)} --frames {frames}{counted}`"


def _total(line: Mapping[str, Any], key: str) -> float:
    return float(sum(write[key] for write in line["writes"]))


def _written(name: str, line: Mapping[str, Any]) -> str:
    timed = line["timed"]
    cells = [
        _TOLD[name],
        f"{'x'.join(map(str, line['chunks']))}, {line['codec']}",
        f"{_total(line, 'written_bytes') / 1e6:.1f}",
        f"{line['stored_bytes'] / 1e6:.1f}",
        f"{_total(line, 'written_bytes') / line['stored_bytes']:.2f}",
        f"{_total(line, 'read_bytes') / 1e6:.1f}",
        f"{_total(line, 'requests'):.0f}",
        f"{_total(line, 'seconds'):.1f}" if timed else "not timed",
        f"{line['writes'][-1]['seconds']:.2f}" if timed else "not timed",
        line["date"],
    ]
    return f"| {' | '.join(cells)} |"


def _read(name: str, access: str, line: Mapping[str, Any]) -> str:
    read = line["reads"][access]
    milliseconds = f"{1e3 * read['seconds']:.0f}" if line["timed"] else "not timed"
    return (
        f"| {_TOLD[name]} | {access} | {read['requests']:.0f} | {read['rounds']:.0f} | {read['read_bytes'] / 1e6:.2f} "
        f"| {milliseconds} |"
    )


def _compared(found: Mapping[str, Any]) -> list[str]:
    """Return how much more than the plan the others take."""
    planned = found["planned"]

    def times(line: Mapping[str, Any], key: str) -> float:
        return _total(line, key) / _total(planned, key)

    return [
        f"- {_TOLD[name]}: {times(line, 'written_bytes'):.1f} times the bytes that the plan writes"
        + (f", {times(line, 'seconds'):.0f} times its time." if line["timed"] and planned["timed"] else ".")
        for name, line in found.items()
        if name != "planned"
    ]
