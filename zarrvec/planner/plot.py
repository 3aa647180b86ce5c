"""How does a plan look beside other choices, in one picture?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from zarrvec.errors import OptionError
from zarrvec.planner.records import Choice

_TERMS: Final = {
    "fetch_seconds": "read requests",
    "decode_seconds": "decode",
    "encode_seconds": "encode",
    "store_seconds": "write requests",
}


def plotted(choices: Sequence[Choice], title: str, path: str | Path | None) -> Any:
    """Draw where the time of each access goes: a panel for each access, a bar for each choice.

    Stages that overlap stand on top of one another, so a bar may be longer than the time, which a line marks.

    Raises
    ------
    OptionError
        If matplotlib isn't installed, or saves no pictures of that suffix.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError(
            "Plan.plot: needs matplotlib, which is not installed; pip install 'zarrvec[plot]'."
        ) from error
    accesses = choices[0].figures.accesses
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path is not None and Path(path).suffix.removeprefix(".").lower() not in kinds:
        raise OptionError(f"Plan.plot: {path}: expected a file name that ends in one of {sorted(kinds)}.")
    figure = Figure(figsize=(8, 1.2 + len(accesses) * (0.6 + 0.3 * len(choices))), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(len(accesses), 1, squeeze=False)[:, 0]
    names = [f"{choice.name} {'x'.join(map(str, choice.chunks))}" for choice in choices]
    for place, (panel, access) in enumerate(zip(panels, accesses, strict=True)):
        left = [0.0] * len(choices)
        for field, label in _TERMS.items():
            widths = [getattr(choice.figures.accesses[place], field) for choice in choices]
            panel.barh(names, widths, left=left, label=label)
            left = [at + width for at, width in zip(left, widths, strict=True)]
        seconds = [choice.figures.accesses[place].seconds for choice in choices]
        panel.plot(seconds, names, "k|", markersize=12, label="in all")
        panel.invert_yaxis()
        panel.set_title(f"{access.kind} {access.name}, {access.weight:.0%}", fontsize=9)
        panel.tick_params(labelsize=8)
    panels[-1].set_xlabel("seconds a call")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    if path is not None:
        figure.savefig(path)
    return figure
