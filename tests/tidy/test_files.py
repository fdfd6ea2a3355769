"""The house rules on files: short, with short functions, and about this project alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.tidy.source import ROOT, listed_by_git, project_files, python_files, tree

#: A file is read in one sitting, a function on one screen. Most are far below both.
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 80
SOURCES = python_files("k2i_tasks", "flows", "tests")

#: What is true on one machine only. In brackets, so that this file does not hold them itself.
FORBIDDEN = {
    "a folder beside the project": re.compile(r"\bshared[/]"),
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|root|home|Users)[/]\w"),
    "a package registry": re.compile(
        r"pypi[.]org|pythonhosted[.]org|repo1?[.]maven[.]|npmjs[.]org|crates[.]io|golang[.]org"
        r"|index[-]url|extra[-]index"
    ),
    "a repository in a pom": re.compile(r"<(?:repository|mirror|pluginRepository)[>]"),
    "a paper that is not in the project": re.compile(
        r"\b(?:DESIGN|PEERS|RELIABILITY|PREFECT|BRIEF)[.]md"
    ),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES_MAX, f"{lines} lines: split it"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_fit_a_screen(path: Path) -> None:
    long = [
        f"{node.name}, {lines} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, f"split: {long}"


def findings(text: str) -> list[str]:
    """What a text says that is no business of the project, with its lines."""
    return [
        f"line {number}: {what}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if (match := pattern.search(line))
    ]


def test_no_file_tells_of_a_machine_or_a_registry() -> None:
    files = project_files()
    if not files:
        pytest.skip("not a git clone: which files are the project's is not known")
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{name_of(path)} {finding}" for finding in findings(text)]
    assert not found, f"{len(found)} findings:\n" + "\n".join(found[:20])


def test_nothing_that_is_ignored_is_in_version_control() -> None:
    tracked = listed_by_git("--cached", "--ignored", "--exclude-standard")
    assert not tracked, f"{len(tracked)} files, such as {tracked[0]}: git rm --cached"


@pytest.mark.parametrize(
    "text",
    [
        "see shared" + "/notes",
        "cd /ho" + "me/me/k2i",
        "https://py" + "pi.org/simple",
        "a <mirror" + ">",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert findings(f"first\n{text}\n")[0].startswith("line 2")
