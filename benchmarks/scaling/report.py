"""How are model and counts told? As Markdown, from the JSON that `benchmarks.scaling.run` writes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.scaling import chunks, compare, predictions
from benchmarks.scaling.compare import Pair
from benchmarks.scaling.work import LATENCY_SECONDS, S3

_FIGURES = {"read_bytes": "bytes read", "written_bytes": "bytes written"}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the whole document."""
    stores, indexes = results.get("chunks", {}), results.get("vectors", {})
    lines = [
        "# How requests, bytes and rounds grow: a model, and what was counted",
        "",
        "Written by `benchmarks.scaling.run`; what it does is told in its docstring. The model (`model.py`, `model_index.py`) is made of the",
        "formats' tables and the code's constants, and knows nothing of what was counted, but for numbers of where lists lie (`RUNS`,",
        "`RUNS_OF_GROUPS`, `GAP_LISTS`), how many lists a search probes, and constants of a few bytes for rows of a page and of a root. Counts are those of a proxy before a real S3 server",
        "(SeaweedFS). A round is a wait: requests that overlap are one.",
        "",
        *_runs(results),
        "",
        "## Where it ends",
        "",
        *predictions.limits(results),
        "",
        "## Stores of chunks: model and counts",
        "",
        f"One array of chunks of 5,000 to 6,000 stored bytes, each under its key, 3,000 in a pack (`:200`: 200). The entries of {chunks.REAL:,} chunks are",
        f"real and those of the others name packs that are not there. Means of {chunks.BURSTS} commits of {chunks.BURST} adjacent chunks and of",
        f"{chunks.SINGLES} commits of one chunk, at random places, the latter with a delta that is nearly full; the errors are (model - counted) / counted.",
        "Metadata is what a commit writes besides values and their checksums; garbage what it leaves that nobody needs, replaced values included.",
        "",
        *_compared({name: list(compare.of_chunks(found)) for name, found in stores.items()}),
        "",
        "### Verification of stores that are there as a whole",
        "",
        *_compared(
            {name: list(compare.of_verify(found)) for name, found in results.get("verify", {}).items()}
        ),
        "",
        "### Commits that a branch keeps, by commits a second",
        "",
        *_compared(
            {name: list(compare.of_dropping(found)) for name, found in results.get("dropping", {}).items()}
        ),
        "",
        "## Indexes: model and counts",
        "",
        'Real builds by `build_index(metric="cosine")` of synthetic rows near a surface of 8 dimensions, in chunks of 1 MiB; `minilm` is 26,000 of',
        "the shared data's embeddings. `:11000` has so many lists, so that their table is read by groups. Means of 5 searches each of which holds nothing",
        "but the array's metadata, of 20 later ones, and of 5 first ones when other changes have folded the keys of the index into pages.",
        "",
        *_compared({name: list(compare.of_vectors(found)) for name, found in indexes.items()}),
        "",
        *_builds(indexes),
        "",
        "## Stores of 10^4 to 10^9 chunks: the model",
        "",
        f"{LATENCY_SECONDS * 1e3:.0f} ms for a round and {S3.connection_bytes_per_second / 1e6:.0f} MB/s a connection; $ of S3 Standard's requests. CPU is not in it.",
        "",
        *predictions.of_chunks(),
        "",
        "## Indexes of 10^4 to 10^9 vectors: the model",
        "",
        *predictions.of_vectors(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _runs(results: Mapping[str, Any]) -> Iterator[str]:
    for part in ("chunks", "verify", "roots", "packs", "dropping", "vectors"):
        for found in results.get(part, {}).values():
            yield f"- `{found['command']}`, {found['date']}, {found['all_seconds']:.0f} s"
    some = [found for part in results.values() for found in part.values()]
    for text in dict.fromkeys(_machine(found) for found in some):
        yield f"- {text}"


def _machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return f"{found['machine']['cores']} cores ({found['machine']['cpu']}), shared with others; {versions}"


def _compared(columns: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
    """Yield a table: a row for each figure, and for each store what the model says, what was counted, and the error."""
    if not columns:
        yield "Nothing was counted."
        return
    rows = dict.fromkeys((pair.operation, pair.figure) for pairs in columns.values() for pair in pairs)
    names = list(columns)
    yield f"| operation | figure | {' | '.join(f'{name}: model / counted' for name in names)} |"
    yield f"| --- | --- |{' ---: |' * len(names)}"
    for operation, figure in rows:
        cells = [
            _cell(next((p for p in columns[name] if p[:2] == (operation, figure)), None)) for name in names
        ]
        yield f"| {operation} | {_FIGURES.get(figure, figure)} | {' | '.join(cells)} |"
    errors = sorted(abs(pair.error) for pairs in columns.values() for pair in pairs if pair.counted)
    yield ""
    within = [sum(error <= bound for error in errors) / len(errors) for bound in (0.1, 0.25)]
    yield f"Of {len(errors)} figures {within[0]:.0%} are within 10 % and {within[1]:.0%} within 25 %; the worst is off by {errors[-1]:.0%}."


def _cell(pair: Pair | None) -> str:
    if pair is None:
        return ""
    told: Callable[[float], str] = amount if pair.figure not in ("requests", "rounds") else _few
    return f"{told(pair.model)} / {told(pair.counted)} ({round(100 * pair.error) or 0:+d} %)"


def _few(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def amount(number: float) -> str:
    """Return a number of bytes, or of something else, with its order of magnitude.

    Examples
    --------
    >>> amount(950), amount(12_345), amount(7.5e12)
    ('950', '12.3 k', '7.5 T')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _builds(indexes: Mapping[str, Any]) -> Iterator[str]:
    yield from table(
        ["index", "lists", "probed for recall 0.95", "ranges a list read", "segments after the append", "build s", "of it training", "placing"],
        (
            [
                name, f"{found['index']['lists']:,}", f"{found['nprobe']}",
                f"{found['warm']['requests'] / max(1, found['lists_read']):.2f}", f"{found['append']['segments']:.0f}",
                f"{found['build']['seconds']:.0f}", f"{found['index']['seconds']['train']:.0f}",
                f"{found['index']['seconds']['assign']:.0f}",
            ]
            for name, found in indexes.items()
        ),
    )  # fmt: skip
