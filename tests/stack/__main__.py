"""Starts and stops real services for tests, without containers and without root.

    python -m tests.stack up kafka iceberg-rest    start, and wait until they answer
    python -m tests.stack status                   what runs, its pid, ports and memory
    python -m tests.stack env kafka                client settings, as shell lines
    python -m tests.stack restart kafka            stop and start, data kept
    python -m tests.stack kill kafka               faults: a crash; also pause and resume
    python -m tests.stack down --wipe              stop all and forget their data

Everything listens on the loopback interface only.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import processes
from .programs import StackError
from .service import Service, Settings
from .services import build

COMMANDS = {
    "up": "start services, and those they need",
    "down": "stop services; all of them when none is named",
    "restart": "stop and start, data kept",
    "kill": "end services as a crash would",
    "pause": "freeze services: connections stay open, nothing answers",
    "resume": "let paused services go on",
    "fetch": "only download and build; everything when none is named",
    "status": "show what runs",
    "env": "print client settings",
    "list": "show what there is",
}
NAMES_REQUIRED = {"up", "restart", "kill", "pause", "resume"}


def default_cache() -> Path:
    """$STACK_CACHE, or a folder in the user's own cache."""
    return Path(os.environ.get("STACK_CACHE") or Path.home() / ".cache" / "teststack")


def _port(text: str) -> tuple[str, int]:
    name, separator, number = text.partition("=")
    if not separator or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PORT or NAME.ROLE=PORT")
    return name, int(number)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    home = Path(os.environ.get("STACK_HOME", ".stack"))
    home_help = "folder for data, logs and pids (default: $STACK_HOME or .stack)"
    common.add_argument("--home", type=Path, default=home, help=home_help)
    common.add_argument("--cache", type=Path, default=default_cache(), help="for downloads")
    common.add_argument(
        "--port", type=_port, action="append", default=[], metavar="NAME[.ROLE]=N", help="a port"
    )
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tests.stack", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, parents=[common])
        sub.add_argument("names", nargs="+" if name in NAMES_REQUIRED else "*", metavar="NAME")
        if name == "down":
            sub.add_argument("--wipe", action="store_true", help="also delete data and logs")
    return parser.parse_args(argv)


def _print_status(service: Service) -> None:
    pid = service.pid()
    if pid:
        ports = " ".join(f"{role or 'main'}={service.port(role)}" for role in service.ports)
        print(f"{service.name:16} pid {pid:<8} {processes.rss_mb(pid):>5} MB  {ports}")


def _perform(args: argparse.Namespace, chosen: dict[str, Service]) -> None:
    # Last started first: what others need goes down after them.
    order = reversed(list(chosen.values())) if args.command == "down" else chosen.values()
    for service in order:
        if args.command == "list":
            print(f"{service.name:16} {service.summary}")
        elif args.command == "status":
            _print_status(service)
        elif args.command == "env":
            for key, value in service.client().items():
                print(f"export {key}='{value}'")
        elif args.command == "down" and args.wipe:
            service.wipe()
        else:
            getattr(service, args.command)()


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    services = build(Settings(args.home.resolve(), args.cache.resolve(), dict(args.port)))
    unknown = [name for name in args.names if name not in services]
    if unknown:
        print(f"no such service: {', '.join(unknown)}; see the command list", file=sys.stderr)
        return 2
    try:
        _perform(args, {name: services[name] for name in args.names} or services)
    except StackError as error:
        print(f"tests.stack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
