"""Pictures of curves: what was measured over a size, or over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from benchmarks.figure import LIMIT, OTHERS, OURS

WARNING = "#b3261e"
#: Of the stages of a timeline, in order.
STAGE_COLOURS = ("#0b6e4f", "#5aa98b", "#a9d3bf", "#2f5d8a", "#d08c2a", "#9b8bb4", "#c4cad1")


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


def limits(report: Mapping[str, Any], path: Path) -> None:
    """Draws a report of `limits`: CPU of each part, and how many times as much the program's is.

    Args:
        report: as `limits` writes it.
        path: of the picture; its ending says which kind.
    """
    parts = report["parts"]
    titles = [part["title"] for part in parts.values()]
    picture = Figure(figsize=(9, 0.9 + 0.42 * len(parts)), layout="constrained")
    axes = picture.subplots()
    spreads = [part["cpu_seconds_per_million_rows"] for part in parts.values()]
    middles = [spread["median"] for spread in spreads]
    whiskers = [
        [spread["median"] - spread["min"] for spread in spreads],
        [spread["max"] - spread["median"] for spread in spreads],
    ]
    colours = [OURS if name == "k2i" else OTHERS if name == "chain" else LIMIT for name in parts]
    bars = axes.barh(titles, middles, color=colours, xerr=whiskers, ecolor="#39424e")
    texts = [
        f"  {middle:.2f}" + ("" if name == "k2i" else f"; K2I {ratio:.1f} times it")
        for (name, ratio), middle in zip(
            ((name, part["k2i_cpu_ratio"]["median"]) for name, part in parts.items()),
            middles,
            strict=True,
        )
    ]
    axes.bar_label(bars, texts, fontsize=8)
    axes.set_title("CPU seconds per million rows", fontsize=9)
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=150)


def formats(report: Mapping[str, Any], path: Path) -> None:
    """Draws a report of `formats`: CPU of each stream, that of decoding in it.

    Args:
        report: as `formats` writes it.
        path: of the picture; its ending says which kind.
    """
    streams = report["streams"]
    names = list(streams)
    whole = [one["cpu_seconds_per_million_rows"]["median"] for one in streams.values()]
    decoding = [one["decode_cpu_seconds_per_million_rows"]["median"] for one in streams.values()]
    picture = Figure(figsize=(9, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = picture.subplots()
    bars = axes.barh(names, whole, color=OTHERS, label="all")
    axes.barh(names, decoding, color=OURS, label="decoding")
    rates = [f"  {one['rows_per_second']:,} rows/s" for one in streams.values()]
    axes.bar_label(bars, rates, fontsize=8)
    axes.set_title("CPU seconds per million rows", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=150)


def timeline(report: Mapping[str, Any], stages: Mapping[str, str], path: Path) -> None:
    """Draws a report of `timeline`: processors that each stage had, stacked, over time.

    Args:
        report: as `timeline` writes it.
        stages: stage -> as people are told, in order.
        path: of the picture; its ending says which kind.
    """
    picture = Figure(figsize=(11, 3.6), layout="constrained")
    axes = picture.subplots()
    seconds, intervals = report["seconds"], report["interval_seconds"]
    edges = [seconds[0] - intervals[0], *seconds] if seconds else [0.0, 0.0]
    below = [0.0] * len(seconds)
    for number, (stage, title) in enumerate(stages.items()):
        above = [a + b for a, b in zip(below, report["cores"][stage], strict=True)]
        share = report["stage_cores"][stage]
        axes.stairs(
            above or [0.0],
            edges,
            baseline=below or [0.0],
            fill=True,
            color=STAGE_COLOURS[number],
            label=f"{title}, {share:.2f} processors",
        )
        below = above
    axes.axhline(report["cpus"], color="#39424e", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, edges[-1] or 1.0)
    axes.set_ylim(0, 1.05 * max(report["cpus"], *below, 1.0))
    axes.set_xlabel("seconds from the first message on", fontsize=9)
    axes.set_ylabel("processors in use", fontsize=9)
    least, most = (report["two_at_once"][name] for name in ("at_least", "at_most"))
    axes.set_title(
        f"{report['messages']:,} events, {report['cpus']} processors (dotted); two stages or more "
        f"at once for {least:.0%} to {most:.0%} of the time",
        fontsize=10,
    )
    _plain(axes)
    picture.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    picture.savefig(path, dpi=150)


def hot(report: Mapping[str, Any], path: Path) -> None:
    """Draws a report of `hot`: median and 99th percentile of each query, on a scale of powers.

    Args:
        report: as `hot` writes it.
        path: of the picture; its ending says which kind.
    """
    parts = {name: report["memory"][name] for name in ("not committed", "committed")}
    if "run" in report:
        parts["beside a run"] = report["run"]["queries"]
    picture = Figure(figsize=(8.0, 3.4), layout="constrained")
    axes = picture.subplots()
    names = list(parts["committed"])
    for number, (part, colour) in enumerate(zip(parts, (OURS, OTHERS, WARNING), strict=False)):
        known = [(at, parts[part][name]) for at, name in enumerate(names) if name in parts[part]]
        heights = [at + 0.24 * (number - 1) for at, _one in known]
        middles = [1000 * one["p50"] for _at, one in known]
        highs = [1000 * one["p99"] for _at, one in known]
        axes.hlines(heights, middles, highs, color=colour, linewidth=2)
        axes.plot(middles, heights, "o", color=colour, markersize=5, label=part)
        axes.plot(highs, heights, "|", color=colour, markersize=9)
    for at, name in enumerate(names):
        if name in report["targets"]:
            limit = 1000 * report["targets"][name]
            axes.vlines(limit, at - 0.4, at + 0.4, color=LIMIT, linewidth=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xlabel("ms: median to 99th percentile; grey: the target", fontsize=8)
    axes.set_title(f"Queries of {report['rows']:,} rows in memory", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.invert_yaxis()
    _plain(axes)
    picture.savefig(path)


def memory(report: Mapping[str, Any], path: Path) -> None:
    """Draws a report of `memory`: the resident memory of the process over time, and the bound.

    Args:
        report: as `memory` writes it.
        path: of the picture; its ending says which kind.
    """
    picture = Figure(figsize=(9, 3.2), layout="constrained")
    axes = picture.subplots()
    axes.plot(report["seconds"], report["rss_mb"], color=OURS, linewidth=1)
    axes.axhline(report["bound_mb"], color=WARNING, linewidth=1, linestyle="--")
    axes.annotate(
        f"bound {report['bound_mb']:.0f} MB",
        (0, report["bound_mb"]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=WARNING,
    )
    axes.set_ylim(0, 1.15 * max(report["bound_mb"], report["peak_rss_mb"]))
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds from the start of the process on", fontsize=9)
    axes.set_ylabel("resident memory, MB", fontsize=9)
    axes.set_title(
        f"{report['messages']:,} events, buffer of {report['buffer_mb']} MB, "
        f"{report['partitions']} Kafka partitions, {report['table_partitions']} of the table; "
        f"peak {report['peak_rss_mb']:.0f} MB",
        fontsize=10,
    )
    _plain(axes)
    picture.savefig(path, dpi=150)
