"""The package says what it needs, the locks hold it with hashes, and the house has its rooms."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from typing import Any

import pytest

import k2i_tasks
from tests.tidy.source import PROGRAM, ROOT, imports, python_files

OURS = {"k2i_tasks", "flows", "tests"}
LOCKS = ("requirements.txt", "requirements-dev.txt")


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~ ;]", each)[0]) for each in requirements}


def locked(lock: str) -> dict[str, str]:
    """`name==version ; marker` -> the rest of its entry, which is its hashes and comments."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    return {head.strip(): rest for head, _, rest in (entry.partition("\\\n") for entry in entries)}


def third_parties(*folders: str) -> dict[str, str]:
    """Imported top-level name -> one file that does it; neither ours nor Python's own."""
    return {
        top: str(path.relative_to(ROOT))
        for path in python_files(*folders)
        for imported, _ in imports(path)
        if (top := imported.split(".")[0]) not in OURS and top not in sys.stdlib_module_names
    }


def undeclared(imported: dict[str, str], declared: set[str]) -> list[str]:
    known = packages_distributions()
    return [
        f"{top} in {where}"
        for top, where in imported.items()
        if not declared & {normal(each) for each in known.get(top, [top])}
    ]


def test_what_the_program_imports_is_declared() -> None:
    declared = names(project()["project"]["dependencies"])
    assert not undeclared(third_parties(*PROGRAM), declared)


def test_what_the_tests_import_is_declared() -> None:
    groups = project()["dependency-groups"]
    declared = names([*project()["project"]["dependencies"], *groups["dev"]])
    outside = third_parties("tests")
    del outside["benchmarks"]  # ours, and not for the program
    assert not undeclared(outside, declared)


def test_the_test_stack_needs_python_alone() -> None:
    assert not third_parties("tests/stack")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_an_exact_version_and_hashes(lock: str) -> None:
    entries = locked(lock)
    assert len(entries) > 50
    for head, rest in entries.items():
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", head), head
        assert "--hash=sha256:" in rest, head


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_a_host_or_a_folder(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"(?m)^-", text)


def test_the_run_lock_is_part_of_the_dev_lock() -> None:
    assert locked("requirements.txt").keys() < locked("requirements-dev.txt").keys()


@pytest.mark.parametrize(("lock", "groups"), [(LOCKS[0], ["build"]), (LOCKS[1], ["build", "dev"])])
def test_what_is_declared_is_locked(lock: str, groups: list[str]) -> None:
    declared = names(project()["project"]["dependencies"])
    for group in groups:
        declared |= names(project()["dependency-groups"][group])
    assert declared <= names(list(locked(lock)))


def test_a_built_package_builds_with_what_the_lock_holds() -> None:
    assert project()["build-system"]["requires"] == project()["dependency-groups"]["build"]


def test_the_version_is_one_and_the_changelog_is_kept() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", k2i_tasks.__version__)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_house_has_its_rooms() -> None:
    rooms = """
        README.md LICENSE CHANGELOG.md CONTRIBUTING.md Makefile prefect.yaml .ci/run
        .pre-commit-config.yaml flows/ingest.py k2i_tasks/py.typed k2i_tasks/tasks.py
        k2i_tasks/wiring.py k2i_tasks/runner.py k2i_tasks/operations.py
        docs examples benchmarks deployments
    """
    assert not [room for room in rooms.split() if not (ROOT / room).exists()]
