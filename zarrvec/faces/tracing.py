"""Which reads and writes did this process make, by their shapes? ``zarrvec.trace``."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from zarrvec.errors import OptionError
from zarrvec.faces.targets import repository_of
from zarrvec.layout.trace import ArrayTrace, Counts, Shape, Tally

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Reads and writes, counted by array and shape.

    Examples
    --------
    >>> import tempfile, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"zarrvec://{folder}/data.zarr", shape=(20, 8), chunks=(10, 8), dtype="f4")
    ...     array[:] = 1
    ...     _ = array[3], array[4], array[5:15]
    ...     print(zarrvec.trace(array))
    write  (20, 8)  1 operation, chunks 2 (2 whole)
    read   (1, 8)   2 operations, chunks 2 (0 whole)
    read   (10, 8)  1 operation, chunks 2 (0 whole)
    """

    arrays: Mapping[str, ArrayTrace]
    """By path in the store."""
    elsewhere: Counts
    """Operations on arrays that were too many to be told apart."""

    @property
    def operations(self) -> int:
        """How many operations were counted."""
        counted = [
            counts for trace in self.arrays.values() for counts in (*trace.shapes.values(), trace.rest)
        ]
        return sum(counts.operations for counts in counted) + self.elsewhere.operations

    def merged(self, *others: "Trace") -> "Trace":
        """Return what this trace and others, of other processes say, counted together."""
        tally = Tally()
        for each in (self, *others):
            tally.add(_tally_of(each))
        return _trace_of(tally)

    def __str__(self) -> str:
        rows: list[tuple[str, str, str, Counts]] = []
        for array, trace in sorted(self.arrays.items()):
            rows += [(array, shape.kind, _spelled(shape), counts) for shape, counts in trace.shapes.items()]
            if trace.rest.operations:
                rows.append((array, "any", "other shapes", trace.rest))
        if self.elsewhere.operations:
            rows.append(("other arrays", "any", "any shape", self.elsewhere))
        widths = [max((len(str(row[column])) for row in rows), default=0) for column in range(3)]
        return "\n".join(
            "  ".join(
                [text.ljust(width) for text, width in zip(row[:3], widths, strict=True) if width]
                + [_told(row[3])]
            )
            for row in rows
        )

    def to_json(self) -> str:
        """Return it as JSON."""
        arrays = {
            array: {
                "shapes": [
                    {**shape._asdict(), **dataclasses.asdict(counts)}
                    for shape, counts in trace.shapes.items()
                ],
                "rest": dataclasses.asdict(trace.rest),
            }
            for array, trace in self.arrays.items()
        }
        told = {"zarrvec_trace": _FORMAT, "arrays": arrays, "elsewhere": dataclasses.asdict(self.elsewhere)}
        return json.dumps(told, indent=1)

    def save(self, path: str | Path) -> None:
        """Write it to a file, as JSON."""
        Path(path).write_text(self.to_json() + "\n")

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str = "trace") -> Self:
        """Return the trace that `to_json` wrote.

        Raises
        ------
        OptionError
            If it is none.
        """
        try:
            told = json.loads(text)
            _check_format(told["zarrvec_trace"])
            arrays = {
                str(array): ArrayTrace(
                    shapes=dict(map(_counted, trace["shapes"])), rest=Counts(**_numbers(trace["rest"]))
                )
                for array, trace in told["arrays"].items()
            }
            return cls(arrays=arrays, elsewhere=Counts(**_numbers(told["elsewhere"])))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise OptionError(
                f"{name}: no trace ({type(error).__name__}: {error}); expected what zarrvec.trace(...).save wrote."
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a trace from a file.

        Raises
        ------
        OptionError
            If there is something else in it.
        """
        return cls.from_json(Path(path).read_bytes(), name=str(path))

    @classmethod
    def of(cls, given: "Trace | str | Path | Iterable[Trace | str | Path]") -> "Trace":
        """Return a trace, that of a file, or what many of them say together."""
        if isinstance(given, Trace):
            return given
        if isinstance(given, str | Path):
            return cls.load(given)
        return cls(arrays={}, elsewhere=Counts()).merged(*map(cls.of, given))


def trace(target: Any, storage_options: dict[str, Any] | None = None, *, reset: bool = False) -> Trace:
    """Return which reads and writes of arrays this process made on a store.

    Every process counts its own; a forked child begins anew. Counted is what goes through zarr's arrays, at any version,
    by handles that were opened equally and without ``{"trace": False}``. It is kept in memory, in less than 5 MiB a store:
    32 shapes for each of 256 arrays, the rest together.

    Parameters
    ----------
    target
        A zarr group, array or store on a zarrvec store, or its URL. Of an array or group only what lies there is told.
    storage_options
        For a URL: as it was opened with.
    reset
        Whether counting begins anew.

    Raises
    ------
    OptionError
        If the target is not on a zarrvec store.
    """
    repository, path = repository_of(target, storage_options)
    tracer = repository.tracer
    tally = Tally() if tracer is None else tracer.take(reset=reset)
    return below(_trace_of(tally), path)


def below(whole: Trace, path: str) -> Trace:
    """Return what a trace says of the arrays at and below a path."""
    if not path:
        return whole
    inside = {array: told for array, told in whole.arrays.items() if f"{array}/".startswith(f"{path}/")}
    return Trace(arrays=inside, elsewhere=Counts())


def _trace_of(tally: Tally) -> Trace:
    return Trace(arrays=tally.arrays, elsewhere=tally.elsewhere)


def _tally_of(told: Trace) -> Tally:
    tally = Tally()
    tally.arrays, tally.elsewhere = dict(told.arrays), told.elsewhere
    return tally


def _check_format(told: object) -> None:
    if told != _FORMAT:
        raise ValueError(f"format {told!r}, expected {_FORMAT}")


def _numbers(told: Mapping[str, Any]) -> dict[str, int]:
    numbers = {name: int(told[name]) for name in Counts.__slots__}
    if min(numbers.values()) < 0:
        raise ValueError(f"counts below zero: {numbers}")
    return numbers


def _counted(told: Mapping[str, Any]) -> tuple[Shape, Counts]:
    if told["kind"] not in ("read", "write"):
        raise ValueError(f"kind {told['kind']!r}")
    cells, scattered = (tuple(map(int, told[name])) for name in ("cells", "scattered"))
    return Shape(told["kind"], cells, scattered), Counts(**_numbers(told))


def _spelled(shape: Shape) -> str:
    return str(shape.cells) + (f" scattered along {shape.scattered}" if shape.scattered else "")


def _told(counts: Counts) -> str:
    plural = "" if counts.operations == 1 else "s"
    return f"{counts.operations:,} operation{plural}, chunks {counts.chunks:,} ({counts.whole:,} whole)"
