"""Numbers as people read them: counts, sizes, durations, a curve of the last minute."""

from __future__ import annotations

from collections.abc import Sequence

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BARS = "▁▂▃▄▅▆▇█"


def count(number: float) -> str:
    """`1,204,331`."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """`482`, `48.2 k`, `1.20 M`: never more than seven characters."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # From where rounding would show a thousand of the smaller unit.
        if abs(number) >= limit * 0.9995:
            scaled = number / limit
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{number:.0f}"


def size(number_bytes: float) -> str:
    """`31.0 MiB`."""
    step = 0
    while abs(number_bytes) >= 1023.95 and step < len(_SIZES) - 1:
        number_bytes /= 1024
        step += 1
    return f"{number_bytes:.0f} B" if step == 0 else f"{number_bytes:.1f} {_SIZES[step]}"


def duration(seconds: float | None) -> str:
    """`0.4 ms`, `41 ms`, `1.2 s`, `3 m 04 s`, `1 h 02 m`, `3 d 04 h`; a dash for nothing."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, part, unit_seconds, part_seconds in (
        ("d", "h", 86_400, 3_600),
        ("h", "m", 3_600, 60),
        ("m", "s", 60, 1),
    ):
        if whole >= unit_seconds:
            rest = whole % unit_seconds // part_seconds
            return f"{whole // unit_seconds} {unit} {rest:02d} {part}"
    return f"{whole} s"


def curve(values: Sequence[float], width_chars: int) -> str:
    """The newest `values` as bars from zero to the largest of them, one character each."""
    newest = values[-width_chars:] if width_chars > 0 else ()
    top = max(newest, default=0.0)
    if top <= 0:
        return _BARS[0] * len(newest)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(max(0.0, value) / top * steps)] for value in newest)
