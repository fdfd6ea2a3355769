"""What Polars says went wrong, in a form that may be told and logged."""

from __future__ import annotations

import re

#: Behind the reason Polars quotes what it could not convert.
_QUOTED = re.compile(r"(?<= values): \[.*|(?<= at character )(\d+) \(.*")


def reason(error: BaseException) -> str:
    """One line, without values of rows and without a full stop."""
    lines = str(error).strip().splitlines()
    told = _QUOTED.sub(r"\1", lines[0]) if lines else ""
    return told.rstrip(".") or type(error).__name__
