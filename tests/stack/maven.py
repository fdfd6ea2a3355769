"""Jars from Maven, and sources compiled against them; kept until the recipe changes."""

from __future__ import annotations

import os
from pathlib import Path

from .programs import building, cached, find_jdk, find_maven, log, run


def jars(cache: Path, name: str, pom: Path) -> Path:
    """The folder where the jars of `pom` are, or will be once they are fetched."""
    return cached(cache, name, pom.read_text(encoding="utf-8"))


def fetch(cache: Path, name: str, pom: Path) -> Path:
    """Fetches what `pom` depends on, and all that this needs, into one folder. Idempotent."""
    with building(jars(cache, name, pom)) as folder:
        if folder is not None:
            log(f"{name}: fetching with Maven")
            goal, target = "dependency:copy-dependencies", f"-DoutputDirectory={folder}"
            command = [find_maven(), "-q", "-B", "-f", str(pom), goal, target]
            run(command, env={**os.environ, "JAVA_HOME": str(find_jdk())})
            for archive in folder.glob("*.tar.gz"):
                # A distribution: a program as a whole.
                run(["tar", "-xzf", archive, "-C", folder])
                archive.unlink()
    return jars(cache, name, pom)


def classes(cache: Path, name: str, library: Path, root: Path) -> Path:
    """The folder where the classes of the sources below `root` are, or will be."""
    texts = (source.read_text(encoding="utf-8") for source in sorted(root.rglob("*.java")))
    return cached(cache, f"classes-{name}", "".join((library.name, *texts)))


def compile_java(cache: Path, name: str, library: Path, root: Path, main: str) -> Path:
    """Compiles one source below `root`, and those it uses, against `library`. Idempotent."""
    with building(classes(cache, name, library, root)) as folder:
        if folder is not None:
            paths = ["-cp", f"{library}/*", "-sourcepath", str(root), "-d", str(folder)]
            run([find_jdk() / "bin" / "javac", "-nowarn", *paths, root / main])
    return classes(cache, name, library, root)
