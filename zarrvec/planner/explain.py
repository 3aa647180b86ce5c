"""Why is a plan as it is?"""

from collections.abc import Sequence
from typing import Final

from zarrvec.planner.records import AccessFigures, Choice

WORTH_NAMING: Final = 0.05
"""A term decides by its difference to zarr's chunks if that is more than this part of the time."""


def explained(choices: Sequence[Choice], heading: Sequence[str], notes: Sequence[str]) -> str:
    """Return tables of what decided, as text.

    Parameters
    ----------
    choices
        The plan's own first.
    heading, notes
        Lines before and behind.
    """
    lines = [
        *heading,
        "",
        *_table(
            ["", "chunks", "chunk", "objects", "seconds", "requests", "memory", "$/month"],
            [_summary(choice) for choice in choices],
        ),
    ]
    for place, access in enumerate(choices[0].figures.accesses):
        rows = [_row(choice.name, choice.figures.accesses[place]) for choice in choices]
        lines += [
            "",
            f"{access.kind} {access.name!r}, {access.weight:.0%} of all accesses; decides: {decider(choices, place)}",
            *_table(
                [
                    "",
                    "read amp.",
                    "rewrite amp.",
                    "GET",
                    "PUT",
                    "bytes",
                    "fetch",
                    "decode",
                    "encode",
                    "store",
                    "seconds",
                ],
                rows,
            ),
        ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def decider(choices: Sequence[Choice], place: int) -> str:
    """Name the term in which the plan differs most from zarr's own chunks; of equals, what takes most time."""
    ours = choices[0].figures.accesses[place]
    theirs = next((one.figures.accesses[place] for one in choices if one.name == "zarr"), ours)
    terms = {
        "requests": (ours.fetch_seconds, theirs.fetch_seconds),
        "CPU of decoding": (ours.decode_seconds, theirs.decode_seconds),
        "CPU of encoding": (ours.encode_seconds, theirs.encode_seconds),
        "what is written": (ours.store_seconds, theirs.store_seconds),
    }
    gains = {name: abs(there - mine) for name, (mine, there) in terms.items()}
    if max(gains.values()) > WORTH_NAMING * ours.seconds:
        return _by_amplification(max(gains, key=lambda name: gains[name]), ours, theirs)
    return max(terms, key=lambda name: terms[name][0])


def _by_amplification(name: str, ours: AccessFigures, theirs: AccessFigures) -> str:
    """Say amplification where it is what lies behind a term."""
    if ours.kind == "write" and _differ(ours.rewrite_amplification, theirs.rewrite_amplification):
        return (
            f"rewrite amplification, {theirs.rewrite_amplification:.3g} -> {ours.rewrite_amplification:.3g}"
        )
    if (
        name == "requests"
        and _differ(ours.get_bytes, theirs.get_bytes)
        and theirs.read_amplification != ours.read_amplification
    ):
        return f"read amplification, {theirs.read_amplification:.3g} -> {ours.read_amplification:.3g}"
    if name == "CPU of decoding" and _differ(ours.read_amplification, theirs.read_amplification):
        return f"read amplification, {theirs.read_amplification:.3g} -> {ours.read_amplification:.3g}"
    if name == "requests":
        return f"requests, {theirs.gets:.3g} -> {ours.gets:.3g}"
    return name


def _differ(mine: float, theirs: float) -> bool:
    return max(mine, theirs) > 1.2 * min(mine, theirs)


def _summary(choice: Choice) -> list[str]:
    figures = choice.figures
    return [
        choice.name,
        "x".join(map(str, choice.chunks)),
        human_bytes(figures.chunk_bytes),
        f"{figures.objects:,}",
        _number(figures.seconds),
        _number(figures.requests),
        human_bytes(figures.memory_bytes),
        f"{figures.dollars_per_month:.2f}",
    ]


def _row(name: str, access: AccessFigures) -> list[str]:
    return [
        name,
        _number(access.read_amplification),
        _number(access.rewrite_amplification),
        _number(access.gets),
        _number(access.puts),
        human_bytes(access.get_bytes + access.put_bytes),
        _number(access.fetch_seconds),
        _number(access.decode_seconds),
        _number(access.encode_seconds),
        _number(access.store_seconds),
        _number(access.seconds),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def human_bytes(size: float) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> human_bytes(999), human_bytes(1536)
    ('999 B', '1.5 KiB')
    """
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
