"""Pictures of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

OURS, OTHERS, LIMIT = "#0b6e4f", "#8a97a6", "#d0d6dd"
#: Ours among the engines.
NAMES = ("k2i", "k2i-group", "k2i-raw")
#: Engines that are none: what is left of one without a table.
LIMITS = ("drain", "chain")


def compared(report: dict[str, Any], path: Path) -> None:
    """Draws a report of `compare`: CPU, rate and memory of each engine, as bars from 0.

    Args:
        report: as `compare` writes it.
        path: of the picture; its ending says which kind.
    """
    engines = report["engines"]
    names = list(engines)
    colours = [OURS if name in NAMES else LIMIT if name in LIMITS else OTHERS for name in names]
    picture = Figure(figsize=(11, 0.6 + 0.5 * len(names)), layout="constrained")
    parts = (
        ("CPU seconds per million rows", "cpu_seconds_per_million_rows", "{:.1f}"),
        ("rows per second", "rows_per_second", "{:,.0f}"),
        ("peak memory, MB", "peak_rss_mb", "{:,.0f}"),
    )
    for axes, (title, figure, form) in zip(picture.subplots(1, 3, sharey=True), parts, strict=True):
        middles = [engines[name][figure] for name in names]
        runs = [[one[figure] for one in engines[name]["runs"]] for name in names]
        below = [m - min(r) for m, r in zip(middles, runs, strict=True)]
        above = [max(r) - m for m, r in zip(middles, runs, strict=True)]
        titles = [engines[name]["title"] for name in names]
        bars = axes.barh(titles, middles, color=colours, xerr=[below, above], ecolor="#39424e")
        axes.bar_label(bars, [f" {form.format(middle)}" for middle in middles], fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    events = f"{report['messages']:,} events of {report['bytes_per_message']} bytes"
    picture.suptitle(
        f"{events}, a commit every {report['commit_interval_seconds']:g} s", fontsize=10
    )
    picture.savefig(path, dpi=150)


def profiled(report: dict[str, Any], stages: Mapping[str, str], path: Path) -> None:
    """Draws a report of `profile`: one bar per format, a part per stage.

    Args:
        report: as `profile` writes it.
        stages: stage -> as people are told, in order.
        path: of the picture; its ending says which kind.
    """
    found = report["cpu_seconds_per_million_rows"]
    picture = Figure(figsize=(11, 2.8), layout="constrained")
    axes = picture.subplots()
    shades = colormaps["viridis"]
    whole = max(sum(found[form][stage] for stage in stages) for form in found)
    left = dict.fromkeys(found, 0.0)
    for number, (stage, title) in enumerate(stages.items()):
        parts = [found[form][stage] for form in found]
        # Not up to the lightest, on which white is not read.
        colour = shades(0.75 * number / len(stages))
        bars = axes.barh(list(found), parts, left=list(left.values()), color=colour, label=title)
        texts = [f"{part:.2f}" if part > 0.025 * whole else "" for part in parts]
        axes.bar_label(bars, texts, label_type="center", fontsize=8, color="white")
        left = {form: left[form] + found[form][stage] for form in found}
    axes.set_title("CPU seconds per million rows", fontsize=9)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    picture.savefig(path, dpi=150)


def commits(report: dict[str, Any], path: Path) -> None:
    """Draws a report of `commits`: commit time and metadata over the number of commits.

    Args:
        report: as `commits` writes it.
        path: of the picture; its ending says which kind.
    """
    picture = Figure(figsize=(13, 3.2), layout="constrained")
    parts = (
        ("commit, ms", (("p50_seconds", "P50", "-"), ("p99_seconds", "P99", ":")), 1e3),
        ("CPU of a commit, ms", (("p50_cpu_seconds", "P50", "-"),), 1e3),
        ("metadata folder, MB", (("metadata_bytes", "", "-"),), 1e-6),
        ("files in it", (("metadata_files", "", "-"),), 1.0),
    )
    kinds = (("with", "upkeep as by default", OURS), ("without", "no upkeep", OTHERS))
    for axes, (title, lines, factor) in zip(picture.subplots(1, 4), parts, strict=True):
        for name, text, colour in kinds:
            looks = report["tables"].get(name, {"looks": []})["looks"]
            counts = [look["commits"] for look in looks]
            for figure, what, style in lines:
                values = [look[figure] * factor for look in looks]
                axes.plot(counts, values, style, color=colour, label=f"{text} {what}".strip())
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("commits", fontsize=8)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    every = f"{report['commit_every_seconds']:g} s"
    picture.suptitle(f"Commits of {report['rows']} rows, one every {every}", fontsize=10)
    picture.savefig(path, dpi=150)
