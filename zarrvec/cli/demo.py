"""What is zarrvec good for? ``demo`` shows it on real data, in a local directory."""

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from zarrvec.cli.common import Json, byte_progress, emit, human_bytes, stdout
from zarrvec.errors import CorruptError, OptionError

OURS: Final = "demo.zarr"
PLAIN: Final = "plain.zarr"
QUERIES: Final = ("volcano", "violin", "submarine")
HITS: Final = 4
ROWS_IN_CHUNK: Final = 100
CHANGED: Final = 50
_TEXT_WIDTH: Final = 88


@dataclass(slots=True)
class _Side:
    """One of the two stores, and what was counted on it."""

    title: str
    directory: Path
    open: Callable[[str], Any]
    """Opens the root group with a mode, as a new process would."""
    requests: Callable[[], Any]
    commit: Callable[[str], AbstractContextManager[Any]]
    """Makes the calls inside one commit, where the store can."""
    steps: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, work: Callable[[], Any]) -> Any:
        before, started = self.requests().copy(), time.perf_counter()
        result = work()
        self.seconds[name] = time.perf_counter() - started
        self.steps[name] = self.requests().since(before)
        return result


def demo(
    directory: Annotated[
        Path, typer.Argument(help="Where to write; what an earlier demo left there is deleted.")
    ] = Path("demo-data"),
    as_json: Json = False,
) -> None:
    """Write real data, compare with plain Zarr, change, go back in time, search by meaning."""
    out = Console(quiet=True) if as_json else stdout()
    _prepare(directory)
    report = _run(directory, out)
    if as_json:
        emit(report)


def _prepare(directory: Path) -> None:
    """Delete what an earlier demo left, and nothing else."""
    if directory.is_file():
        raise OptionError(f"{directory}: is a file, expected a directory.")
    strange = sorted(
        path.name
        for path in (directory.iterdir() if directory.exists() else ())
        if path.name not in (OURS, PLAIN)
    )
    if strange:
        raise OptionError(
            f"{directory}: holds {strange[0]!r}, which no demo wrote; name an empty or a new directory."
        )
    for name in (OURS, PLAIN):
        shutil.rmtree(directory / name, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)


def _run(directory: Path, out: Console) -> dict[str, Any]:
    import numpy as np

    import zarrvec
    from zarrvec.cli.demo_stores import as_figures, count_files
    from zarrvec.demo_data import load_episode, load_texts

    started = time.perf_counter()
    embeddings, texts = load_texts()
    episode = load_episode()
    arrays: dict[str, Any] = {
        "texts/embeddings": embeddings,
        "texts/text": np.array(texts, dtype=object),
        **{f"episode/{name}": values for name, values in episode.items()},
    }
    out.print(
        f"{len(texts):,} texts with their embeddings {embeddings.shape}, and a robot's episode: "
        f"{len(episode['rgb'])} camera frames {episode['rgb'].shape[1:]}, one chunk each\n",
        soft_wrap=True,
    )
    ours, plain = _sides(directory)
    for side in (plain, ours):
        _write(side, arrays)
    url = f"zarrvec://{directory}/{OURS}"
    version = zarrvec.history(url, limit=1)[0].number
    zarrvec.tag(url, "imported", at=version)

    expected = episode["rgb"].copy()
    expected[CHANGED] = expected[CHANGED, ::-1]
    for side in (plain, ours):
        _use(side, expected)
    files = {side.title: count_files(side.directory) for side in (plain, ours)}
    out.print(_table(plain, ours, files))
    out.print()

    commits = zarrvec.history(url)
    out.print("history: every call was one commit, all of it or none of it")
    for commit in commits[:3]:
        out.print(
            f"  {commit.number:>3}  {commit.id[:8]}  {commit.time:%H:%M:%S}  {commit.message or '(automatic)'}"
        )
    out.print(f"  ... {len(commits)} in all")
    out.print(f"  changed since: {zarrvec.diff(url, 'imported')}", soft_wrap=True)

    past = zarrvec.at(url, "imported")["episode/rgb"]
    now = ours.open("r")["episode/rgb"]
    differ = [step for step in range(now.shape[0]) if not np.array_equal(past[step], now[step])]
    is_original = bool(np.array_equal(past[:], episode["rgb"]))
    out.print(
        f"\nthe version before, zarrvec.at(url, 'imported'): frames that differ from now: {differ}; "
        f"all {past.shape[0]} equal those first written: {is_original}\n",
        soft_wrap=True,
    )
    searches = _search(ours, texts, out)
    seconds = time.perf_counter() - started
    out.print(
        f"{seconds:.1f} s. The store is {directory / OURS}: try `{_command()} info {directory / OURS}`",
        soft_wrap=True,
    )
    return {
        "stores": {
            side.title: {
                "objects": files[side.title].files,
                "bytes": files[side.title].size,
                "requests": {name: as_figures(requests) for name, requests in side.steps.items()},
                "seconds": side.seconds,
            }
            for side in (plain, ours)
        },
        "history": commits,
        "frames_changed": differ,
        "past_is_original": is_original,
        **searches,
        "seconds": seconds,
    }


def _command() -> str:
    """Return how this command was called: by its path where that is below the working directory, as in a .venv."""
    command = Path(sys.argv[0]).absolute()
    return str(command.relative_to(Path.cwd())) if command.is_relative_to(Path.cwd()) else "zarrvec"


def _sides(directory: Path) -> tuple[_Side, _Side]:
    import zarr
    from zarr.storage import LocalStore

    from zarrvec.cli.demo_stores import CountingStore
    from zarrvec.engine.bridge import run_sync
    from zarrvec.engine.counting import Requests, count_requests
    from zarrvec.faces.targets import repository_of
    from zarrvec.faces.writing import transaction

    plain = CountingStore(LocalStore(directory / PLAIN))
    url = f"zarrvec://{directory}/{OURS}"
    total = Requests()
    parts: list[Requests] = []

    def open_ours(mode: str) -> Any:
        parts.append(run_sync(count_requests(repository_of(url)[0].place)))
        return zarr.open_group(url, mode=mode)  # type: ignore[arg-type]

    def requests() -> Requests:
        for name in total.__slots__:
            setattr(total, name, sum(getattr(part, name) for part in parts))
        return total

    def open_plain(mode: str) -> Any:
        return zarr.open_group(plain, mode=mode)  # type: ignore[arg-type]

    return (
        _Side("zarrvec", directory / OURS, open_ours, requests, lambda message: transaction(url, message)),
        _Side("plain Zarr", directory / PLAIN, open_plain, lambda: plain.requests, lambda _: nullcontext()),
    )


def _write(side: _Side, arrays: dict[str, Any]) -> None:
    with byte_progress() as progress:
        task = progress.add_task(
            f"write {side.title:<10}", total=sum(_size(values) for values in arrays.values())
        )

        def write() -> None:
            root = side.open("w")
            for name, values in arrays.items():
                rows = 1 if name == "episode/rgb" else ROWS_IN_CHUNK
                array = root.create_array(
                    name,
                    shape=values.shape,
                    chunks=(rows, *values.shape[1:]),
                    dtype=str if values.dtype == object else values.dtype,
                )
                array[:] = values
                progress.advance(task, _size(values))

        side.count("write", write)


def _use(side: _Side, expected: Any) -> None:
    """Change one chunk, then read as new processes would."""
    import numpy as np

    frames = side.open("r+")["episode/rgb"]

    def change() -> None:
        with side.commit("turn a frame upside down"):
            frames[CHANGED] = expected[CHANGED]

    side.count("change", change)
    one = side.count("read one", lambda: side.open("r")["episode/rgb"][CHANGED])
    whole = side.count("read all", lambda: side.open("r")["episode/rgb"][:])
    if not (np.array_equal(one, expected[CHANGED]) and np.array_equal(whole, expected)):
        raise CorruptError(f"{side.directory}: the frames read back differ from those written.")


def _size(values: Any) -> int:
    return sum(len(text.encode()) for text in values) if values.dtype == object else int(values.nbytes)


def _table(plain: _Side, ours: _Side, files: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("requests: PUT / GET / LIST (DELETE)")
    for side in (plain, ours):
        table.add_column(side.title, justify="right")
    rows = {
        "write": "write all arrays",
        "change": "change one frame",
        "read one": "open anew, read one frame",
        "read all": "open anew, read all frames",
    }
    for name, text in rows.items():
        table.add_row(text, *(_requests(side.steps[name], side.seconds[name]) for side in (plain, ours)))
    table.add_row("objects at the end", *(f"{files[side.title].files:,}" for side in (plain, ours)))
    table.add_row("bytes at the end", *(human_bytes(files[side.title].size) for side in (plain, ours)))
    return table


def _requests(counted: Any, seconds: float) -> str:
    deletes = f" ({counted.delete})" if counted.delete else ""
    return f"{counted.put} / {counted.get} / {counted.list}{deletes}  {seconds:.2f} s"


def _search(side: _Side, texts: list[str], out: Console) -> dict[str, Any]:
    """Search by meaning, without and with an index, each as a new process would."""
    from zarrvec.search.cache import LISTS, ROOTS

    rows = [
        next(i for i, text in enumerate(texts) if word in text.split(": ")[0].split(", ")) for word in QUERIES
    ]
    root = side.open("r+")
    vectors, column = root["texts/embeddings"], root["texts/text"]
    queries = vectors.oindex[rows, :]
    hits = {}

    def search(name: str) -> None:
        ROOTS.clear()
        LISTS.clear()
        held: list[Any] = []

        def open_and_search() -> Any:
            held.append(side.open("r")["texts/embeddings"])
            return held[0].vec.search(queries, k=HITS)

        hits[name] = side.count(name, open_and_search)
        side.count(f"{name}: again", lambda: held[0].vec.search(queries, k=HITS))

    search("without index")
    figures = side.count("index", vectors.vec.build_index)
    search("with index")
    every, near = hits["without index"], hits["with index"]
    shared = sum(
        len(set(one) & set(other)) for one, other in zip(every.ids.tolist(), near.ids.tolist(), strict=True)
    )
    out.print(
        f"root['texts/embeddings'].vec.build_index(): {side.seconds['index']:.1f} s, {figures['lists']} posting lists, "
        f"{human_bytes(figures['bytes'])}, {side.steps['index'].put} PUTs",
        soft_wrap=True,
    )
    out.print(_search_table(side, hits))
    out.print(
        f"\n{shared} of {near.ids.size} hits are the same. So small an index is read whole, once; of one of more than 8 MiB "
        "a search reads some lists.",
        soft_wrap=True,
    )
    out.print(f"root['texts/embeddings'].vec.search(queries, k={HITS}):")
    found = []
    for word, ids, distances in zip(QUERIES, near.ids.tolist(), near.distances.tolist(), strict=True):
        out.print(f"  {word}")
        for row, distance in zip(ids, distances, strict=True):
            text = str(column[row])
            shown = text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 3] + "..."
            out.print(f"    {distance:6.3f}  {shown}", soft_wrap=True)
            found.append({"query": word, "row": row, "distance": distance, "text": text})
    out.print()
    return {
        "searches": found,
        "index": figures,
        "same_hits": shared,
        "search_stats": {name: each.stats for name, each in hits.items()},
    }


def _search_table(side: _Side, hits: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(f"requests of a search for {len(QUERIES)} texts: GET / LIST")
    for name in hits:
        table.add_column(name, justify="right")
    for suffix, text in (("", "open anew, search"), (": again", "search again")):
        steps = [(side.steps[name + suffix], side.seconds[name + suffix]) for name in hits]
        table.add_row(text, *(f"{step.get} / {step.list}  {seconds:.3f} s" for step, seconds in steps))
    table.add_row("bytes read anew", *(human_bytes(side.steps[name].read_bytes) for name in hits))
    compared = (f"{each.stats.entries or each.stats.vectors:,}" for each in hits.values())
    table.add_row("rows, or their codes, compared", *compared)
    return table
