"""Structured logs: one JSON object or one line of text per record, with secrets taken out.

Secrets are recognised by value (each resolved secret is registered) and by the name in front of
them (`password=...`). Payloads of records are never logged by any caller; this module cannot know
them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

from k2i_tasks.errors import K2IError

MASK = "***"
#: Shorter values would blot out ordinary words; a secret that short protects nothing.
SECRET_CHARS_MIN = 4
MESSAGE_CHARS_MAX = 8_192
DEPTH_MAX = 6

#: Libraries that talk more than an operator can read; one step quieter than ours.
TAMED = (
    "prefect", "pyiceberg", "confluent_kafka", "librdkafka", "httpx", "httpcore", "urllib3",
    "boto3", "botocore", "s3transfer", "fsspec", "s3fs", "sqlalchemy", "alembic", "asyncio",
    "docket", "websockets", "uvicorn",
)  # fmt: skip

_SECRET_NAME = (
    r"pass(?:word|wd|phrase)|secret|token|credential|api[_.-]?key|access[_.-]?key|"
    r"private[_.-]?key|authorization|sasl[_.-]?jaas"
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.IGNORECASE)
#: Names that contain such a word and say something an operator needs.
_PLAIN_KEY = re.compile(r"(?:_seconds|_bytes|_endpoint|_location|_path|_file|_type|_count)$", re.I)
_NAMED_VALUE = re.compile(
    rf"""(?P<name>[\w.-]*(?:{_SECRET_NAME})[\w.-]*["']?\s*[:=]\s*)"""
    r"""(?:(?P<scheme>(?:bearer|basic)\s+)[^\s"',;&}\]]+|"[^"]*"|'[^']*'|[^\s"',;&}\])]+)""",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_lock = threading.Lock()
_secrets: tuple[str, ...] = ()


def register_secret(value: str) -> None:
    """Takes `value` out of all further log lines, also URL-encoded. Idempotent; thread-safe.

    Args:
        value: a resolved secret; values under four characters are left alone.
    """
    global _secrets
    if len(value) < SECRET_CHARS_MIN:
        return
    forms = {value, quote(value, safe=""), quote_plus(value), *_long_lines(value)}
    with _lock:
        # Longest first, so that a secret within another leaves no remainder.
        _secrets = tuple(sorted({*_secrets, *forms}, key=len, reverse=True))


def _long_lines(value: str) -> set[str]:
    return {line for line in value.splitlines() if len(line) >= 16}


def redact(text: str) -> str:
    """`text` without registered secrets, values of secret-looking names and URL log-ins."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    text = _USERINFO.sub(f"{MASK}@", text)
    return _NAMED_VALUE.sub(_masked, text)


def _masked(match: re.Match[str]) -> str:
    name = match["name"].rstrip().rstrip(":=").rstrip().rstrip("\"'")
    return match[0] if _PLAIN_KEY.search(name) else f"{match['name']}{match['scheme'] or ''}{MASK}"


def one_line(text: str) -> str:
    """`text` without control characters: it can neither forge lines nor drive a terminal."""
    return _CONTROL.sub(lambda match: " " if match[0] in "\n\r" else "?", text)


def _clean(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping) and depth < DEPTH_MAX:
        return {str(k): _clean_entry(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < DEPTH_MAX:
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return redact(str(value))[:MESSAGE_CHARS_MAX]


def _clean_entry(key: str, value: Any, depth: int) -> Any:
    if _SECRET_KEY.search(key) and not _PLAIN_KEY.search(key) and value is not None:
        return MASK
    return _clean(value, depth)


class _Formatter(logging.Formatter):
    """Common parts of both forms."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self.verbose = verbose

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What both forms say of a record, cleaned, in the order shown."""
        when = datetime.fromtimestamp(record.created, UTC)
        shown: dict[str, Any] = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage())[:MESSAGE_CHARS_MAX],
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            shown["error"] = type(error).__name__
            shown["error_message"] = redact(str(error))[:MESSAGE_CHARS_MAX]
        for key, value in vars(record).items():
            if key not in _STANDARD and not key.startswith("_"):
                shown.setdefault(key, _clean_entry(key, value, 0))
        return shown

    def trace(self, record: logging.LogRecord) -> str | None:
        """The traceback, cleaned; errors raised on purpose show theirs only when asked."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or (isinstance(error, K2IError) and not self.verbose):
            return None
        return redact("".join(traceback.format_exception(error))).rstrip()


class JsonFormatter(_Formatter):
    """One JSON object a line: ts, level, logger, message, error, traceback, extras."""

    def format(self, record: logging.LogRecord) -> str:
        shown = self.fields(record)
        if (trace := self.trace(record)) is not None:
            shown["traceback"] = trace
        return json.dumps(shown, ensure_ascii=False, default=str)


class TextFormatter(_Formatter):
    """`12:00:00.123 INFO  k2i_tasks.runner: message key=value`; tracebacks only when verbose."""

    def format(self, record: logging.LogRecord) -> str:
        shown = self.fields(record)
        ts, level, logger = shown.pop("ts"), shown.pop("level"), shown.pop("logger")
        line = f"{ts[11:23]} {level.upper():<7} {logger}: {shown.pop('message')}"
        if (error := shown.pop("error", None)) is not None:
            line += f" ({error}: {shown.pop('error_message')})"
        line = one_line(" ".join([line, *(f"{key}={value}" for key, value in shown.items())]))
        trace = self.trace(record) if self.verbose else None
        return line if trace is None else f"{line}\n{trace}"


class _StandardErrorHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment: a live view replaces it while it draws."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(
    level: str = "info",
    format: Literal["json", "text"] = "json",
    stream: TextIO | None = None,
    *,
    verbose: bool = False,
) -> logging.Handler:
    """Sets the process's logging up. Idempotent: an earlier set-up of ours is replaced.

    Whoever else writes to the terminal at the root (Prefect does, once it is imported) is taken
    off, else each line would be there twice; handlers with other streams stay.

    Args:
        level: debug, info, warn, warning, error or critical; trace means debug.
        format: `json` or `text`.
        stream: where lines go; standard error when None.
        verbose: show tracebacks of errors raised on purpose too.

    Returns:
        The handler, so that a caller can take it off again.
    """
    number = _level_number(level)
    handler: logging.Handler
    handler = logging.StreamHandler(stream) if stream is not None else _StandardErrorHandler()
    handler.setFormatter((JsonFormatter if format == "json" else TextFormatter)(verbose=verbose))
    handler.set_name("k2i")
    root = logging.getLogger()
    for other in list(root.handlers):
        if other.get_name() == "k2i" or getattr(other, "stream", None) in (sys.stderr, sys.stdout):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(number)
    for name in TAMED:
        logging.getLogger(name).setLevel(max(logging.INFO, min(number + 10, logging.CRITICAL)))
    logging.captureWarnings(True)
    return handler


def _level_number(level: str) -> int:
    name = {"WARN": "WARNING", "TRACE": "DEBUG"}.get(level.upper(), level.upper())
    number = logging.getLevelNamesMapping().get(name)
    if number is None:
        raise ValueError(f"not a log level: {level}")
    return number
