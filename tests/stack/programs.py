"""What the stack needs of the machine: helper programs, a JDK, locks, free ports, probes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"


class StackError(Exception):
    """A service could not be fetched, started or stopped; the message says why."""


class MissingToolError(StackError):
    """This machine lacks a tool that the services need: a JDK or Maven."""


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Runs a helper program to its end and returns its output, which a failure shows."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
    )
    if done.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise StackError(f"{shown}\nexited {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock, so that two test runs at a time do not do one thing twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Yields a scratch folder that becomes `target` on success, or None when `target` is there."""
    with locked(target.with_suffix(".lock")):
        if target.exists():
            yield None
            return
        scratch = target.with_suffix(".tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        scratch.rename(target)


def cached(cache: Path, name: str, recipe: str) -> Path:
    """The cache folder for one version of one thing: a changed recipe gets a new folder."""
    return cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def tcp_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def http_status(url: str, timeout_seconds: float = 2.0) -> int:
    """The status of a GET, or 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def free_port() -> int:
    """A port that nothing listens on, below the range that outgoing connections are given.

    A port of that range may be taken by any client while its service restarts, and a client that
    knocks at its own port can even connect to itself.
    """
    for port in random.sample(range(12_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StackError("no free port between 12000 and 32000")


def find_jdk(major_min: int = 17) -> Path:
    """The home of a JDK of at least this major version.

    Looked up in JAVA_HOME, then the `java` on PATH, then the JDKs installed beside that one.
    """
    homes: list[Path] = []
    if os.environ.get("JAVA_HOME"):
        homes.append(Path(os.environ["JAVA_HOME"]))
    on_path = shutil.which("java")
    if on_path:
        home = Path(on_path).resolve().parent.parent
        homes.append(home)
        homes.extend(sorted(path.parent.parent for path in home.parent.glob("*/bin/java")))
    for home in homes:
        if _java_major(home) >= major_min and (home / "bin" / "javac").exists():
            return home
    raise MissingToolError(f"no JDK {major_min} or newer: put java on PATH, or set JAVA_HOME")


def find_maven() -> str:
    """The path of `mvn`."""
    path = shutil.which("mvn")
    if path is None:
        raise MissingToolError("no Maven: put mvn on PATH")
    return path


def _java_major(home: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (home / "release").read_text(encoding="utf-8").splitlines():
            if line.startswith("JAVA_VERSION="):
                parts = line.split('"')[1].replace("-", ".").split(".")
                return int(parts[1] if parts[0] == "1" else parts[0])
    return 0
