"""What is advised for arrays, and how is it told: what to change, what that saves, when it pays?"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from zarrvec.planner.explain import human_bytes
from zarrvec.planner.plan import Plan
from zarrvec.planner.records import Figures

_MONTHS: Final = 120
"""Dollars that are won back later than this are not spoken of."""
_JSON_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What it takes to rewrite an array once."""

    seconds: float
    requests: float
    bytes: float
    """Read and written."""
    dollars: float
    """Of the requests."""
    reads_of_each_chunk: float
    """1, unless chunks of both kinds cross one another in more than memory holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayReplanned:
    """What is advised for one array."""

    path: str
    """In its store."""
    worth: bool
    """Whether the change is advised: the objective falls by a tenth or more."""
    operations: int
    """Traced ones that this rests on."""
    left_out: int
    """Traced ones of shapes that were too many to be told apart, or no longer fit."""
    chunks: tuple[int, ...]
    """As they are."""
    codec: str
    """As it is; empty if it could not be measured, and is taken to be as good as the plan's."""
    now: Figures
    """What is predicted of the array as it is, for the traced accesses."""
    plan: Plan
    """For `zarrvec.rechunk`; its figures are what the change comes to."""
    rewrite: Rewrite
    pays_after: float | None
    """Accesses after which the time of the rewriting is won back; None for never."""
    pays_after_months: float | None
    """The same for dollars; None for never."""

    @property
    def saved(self) -> dict[str, float]:
        """What an access saves on average: seconds, requests, bytes; and dollars a month. Negative is a loss."""
        now, then = self.now, self.plan.figures
        return {
            "seconds": now.seconds - then.seconds,
            "requests": now.requests - then.requests,
            "bytes": now.bytes - then.bytes,
            "dollars_per_month": now.dollars_per_month - then.dollars_per_month,
        }

    def explain(self) -> str:
        """Return what is advised and why, as text."""
        now, then, saved = self.now, self.plan.figures, self.saved
        head = f"{self.path or 'the array'}: " + (
            f"change chunks {self.chunks} to {self.plan.chunks}, codec {self.codec or '?'} to {self.plan.codec.name}"
            if self.worth
            else f"keep chunks {self.chunks}; the best that was found, {self.plan.chunks}, saves too little"
        )
        lines = [
            head,
            f"  for {self.operations:,} traced operations",
            f"  an access takes {_taken(now)}; then {_taken(then)}",
            f"  a month costs {now.dollars_per_month:.3g} dollars, then {then.dollars_per_month:.3g}",
        ]
        if self.left_out:
            lines[1] += f"; {self.left_out:,} of other shapes are left out"
        for access_now, access_then in zip(now.accesses, then.accesses, strict=True):
            lines.append(
                f"    {access_now.kind} {access_now.name}, {access_now.weight:.0%}: "
                f"{access_now.seconds:.3g} s to {access_then.seconds:.3g} s"
            )
        if self.worth:
            lines += [
                f"  saves {saved['seconds']:.3g} s an access. {self._pays()}",
                "  A Zarr array has one grid of chunks and one list of codecs: new data alone can't have others.",
            ]
        return "\n".join(lines)

    def _pays(self) -> str:
        rewrite = self.rewrite
        takes = f"{rewrite.seconds:.3g} s, {rewrite.requests:,.0f} requests, {human_bytes(rewrite.bytes)}"
        pays = "is not won back in time"
        if self.pays_after is not None:
            pays = f"pays after {math.ceil(self.pays_after):,} accesses"
        if self.pays_after_months is not None and self.pays_after_months < _MONTHS:
            pays += f", in dollars after {self.pays_after_months:.3g} months"
        return f"The rewriting takes {takes}, and {pays}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """What is advised for the arrays of a store."""

    arrays: tuple[ArrayReplanned, ...]
    """By path."""
    skipped: Mapping[str, str]
    """Arrays that can't be planned, and why."""

    def __getitem__(self, path: str) -> ArrayReplanned:
        for array in self.arrays:
            if array.path == path:
                return array
        raise KeyError(path)

    def __iter__(self) -> Iterator[ArrayReplanned]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def explain(self) -> str:
        """Return what is advised and why, as text."""
        parts = [array.explain() for array in self.arrays]
        parts += [f"{path}: not planned, {reason}" for path, reason in self.skipped.items()]
        return "\n\n".join(parts)

    __str__ = explain

    def to_json(self) -> str:
        """Return it as JSON; the plans in it are as `Plan.to_json` writes them."""
        arrays = [
            {
                **{field.name: getattr(array, field.name) for field in dataclasses.fields(array)},
                "plan": msgspec.Raw(array.plan.to_json().encode()),
                "saved": array.saved,
            }
            for array in self.arrays
        ]
        told = {"zarrvec_replan": _JSON_VERSION, "arrays": arrays, "skipped": dict(self.skipped)}
        return msgspec.json.encode(told).decode()


def _taken(figures: Figures) -> str:
    return f"{figures.seconds:.3g} s, {figures.requests:.3g} requests, {human_bytes(figures.bytes)}"
