"""Pictures of curves: what was measured over a size, or over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from benchmarks.figure import OURS

WARNING = "#b3261e"


def scaling(report: Mapping[str, Any], path: Path) -> None:
    """Draws a report of `scaling`: a panel per curve, CPU above and rate below.

    Args:
        report: as `scaling` writes it.
        path: of the picture; its ending says which kind.
    """
    curves = report["curves"]
    picture = Figure(figsize=(max(4.0, 3.4 * len(curves)), 4.6), layout="constrained")
    panels = picture.subplots(2, len(curves), sharex="col", squeeze=False)
    for (above, below), curve in zip(panels.T, curves.values(), strict=True):
        if curve["per_byte"]:
            cost, rate = "cpu_seconds_per_gigabyte", "megabytes_per_second"
            above.set_title("CPU seconds per GB", fontsize=9)
            below.set_title("MB per second", fontsize=9)
        else:
            cost, rate = "cpu_seconds_per_million_rows", "rows_per_second"
            above.set_title("CPU seconds per million rows", fontsize=9)
            below.set_title("rows per second", fontsize=9)
        points = curve["points"]
        values = [point["value"] for point in points]
        for axes, name in ((above, cost), (below, rate)):
            axes.plot(values, [point[name] for point in points], "o-", color=OURS, markersize=4)
            steep = [point for point in points if point["value"] in curve["cliffs"]]
            axes.plot(
                [point["value"] for point in steep],
                [point[name] for point in steep],
                "o",
                color=WARNING,
                markersize=8,
                fillstyle="none",
            )
            axes.set_xscale("log")
            axes.margins(x=0.06)
            axes.set_ylim(0, 1.1 * max(point[name] for point in points))
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(FixedLocator(_thinned(values)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            _plain(axes)
        below.set_xlabel(curve["title"], fontsize=9)
    circled = "; a red circle is a cliff" if any(c["cliffs"] for c in curves.values()) else ""
    picture.suptitle(f"At most {report['megabytes']:,} MB a point{circled}", fontsize=10)
    picture.savefig(path, dpi=150)


def _thinned(values: list[int]) -> list[int]:
    """Values far enough from each other on a logarithmic axis to be written."""
    kept: list[int] = []
    for value in values:
        if not kept or value >= 2.5 * kept[-1]:
            kept.append(value)
    return kept


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
