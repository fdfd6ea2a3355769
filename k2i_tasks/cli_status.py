"""`k2i status`: asks a running ingest how it is, and shows the answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from k2i_tasks.errors import Component, ConfigError, ServiceError
from k2i_tasks.figures import count, duration, size
from k2i_tasks.logs import one_line

if TYPE_CHECKING:
    from k2i_tasks.config import Config

ANSWER_BYTES_MAX = 4 << 20
ASK_SECONDS = 5.0
_STYLES = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}


def fetch_health(url: str, timeout_seconds: float = ASK_SECONDS) -> dict[str, Any]:
    """The health report at `url`. May block for `timeout_seconds`.

    Args:
        url: address of the health port, with or without `/health`.
        timeout_seconds: longest wait for an answer.

    Raises:
        ConfigError: `url` is not an http address.
        ServiceError: nothing answers, or not with a health report (exit code 6).
    """
    address = _health_address(url)
    # Not by a proxy: it could not reach this machine's own ports.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(address, timeout=timeout_seconds) as answer:
            body = answer.read(ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        # 503 is how an unhealthy run answers; the report is in the body all the same.
        with error:
            body = error.read(ANSWER_BYTES_MAX)
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise ServiceError(
            f"Nothing answers at {address}: {why}.",
            component=Component.HEALTH,
            remedy="Start it with `k2i ingest`, or name its address with --url.",
        ) from error
    return _report(address, body)


def health_url(config: Config) -> str:
    """The address of the health port of the run with this configuration."""
    monitoring = config.monitoring
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(monitoring.health_host, monitoring.health_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{monitoring.health_port}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _health_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{url!r} is not an address.", field="url", remedy="Write http://host:port."
        )
    path = parts.path.rstrip("/")
    return (
        f"{parts.scheme}://{parts.netloc}{path if path.endswith('/health') else path + '/health'}"
    )


def _report(address: str, body: bytes) -> dict[str, Any]:
    try:
        report = json.loads(body)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("components"), dict):
        raise ServiceError(
            f"{address} answers, but not with a health report.",
            component=Component.HEALTH,
            remedy="Name the health port with --url.",
        )
    return report


def status_view(report: Mapping[str, Any]) -> RenderableType:
    """A health report, K2I's own too, as tables.

    Args:
        report: `status`, `components`, and the figures where there are any.
    """
    status = _text(report.get("status", "unknown"))
    head = Text.assemble(("● ", _STYLES.get(status, "bright_black")), (status, "bold"))
    if "topic" in report and "table" in report:
        head.append(f"  {_text(report['topic'])} → {_text(report['table'])}")
    if "state" in report:
        head.append(f"  {_text(report['state'])}", "bright_black")
    parts: list[RenderableType] = [head, _components(report["components"])]
    if isinstance(report.get("records"), dict):
        parts.append(_figures(report))
    if isinstance(report.get("tables"), list):
        parts.append(_tables([one for one in report["tables"] if isinstance(one, dict)]))
    for note in list(report.get("last_errors") or ())[-3:]:
        if isinstance(note, dict):
            text = f"{_text(note.get('component', ''))}: {_text(note.get('message', ''))}"
            parts.append(Text(text, "red"))
    return Group(*parts)


def _components(components: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black")
    for name in ("component", "status", "message"):
        table.add_column(name, overflow="fold")
    for name, component in components.items():
        found = component if isinstance(component, dict) else {"status": component}
        word = _text(found.get("status", "unknown"))
        message = _text(found.get("message", ""))
        table.add_row(_text(name), Text(word, _STYLES.get(word, "bright_black")), Text(message))
    return table


def _figures(report: Mapping[str, Any]) -> Table:
    records, buffer = report["records"], report.get("buffer") or {}
    rows = [
        ("messages/s", count(_number(records, "per_second"))),
        ("consumed", count(_number(records, "consumed"))),
        ("rows committed", count(_number(records, "committed_rows"))),
        ("snapshots", count(_number(records, "snapshots"))),
        ("dead letters", count(_number(records, "dead_letters"))),
        ("lag", count(_number(report, "lag_total"))),
        ("newest row", f"{_age(report.get('freshness_seconds'))} old"),
        (
            "buffer",
            f"{size(_number(buffer, 'bytes'))} of {size(_number(buffer, 'bytes_max'))}"
            + (", paused" if buffer.get("paused") else ""),
        ),
        ("uptime", _age(report.get("uptime_seconds"))),
    ]
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(style="bright_black")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _tables(reports: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black")
    for name in ("topic", "table", "status", "state"):
        table.add_column(name, overflow="fold")
    for name in ("rows committed", "dead letters", "lag", "newest row"):
        table.add_column(name, justify="right")
    for one in reports:
        records = one.get("records")
        records = records if isinstance(records, dict) else {}
        word = _text(one.get("status", "unknown"))
        table.add_row(
            _text(one.get("topic", "")),
            _text(one.get("table", "")),
            Text(word, _STYLES.get(word, "bright_black")),
            _text(one.get("state", "")),
            count(_number(records, "committed_rows")),
            count(_number(records, "dead_letters")),
            count(_number(one, "lag_total")),
            _age(one.get("freshness_seconds")),
        )
    return table


def _number(found: Mapping[str, Any], name: str) -> float:
    value = found.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _age(seconds: Any) -> str:
    return duration(float(seconds) if isinstance(seconds, (int, float)) else None)


def _text(value: Any) -> str:
    return one_line(str(value))
