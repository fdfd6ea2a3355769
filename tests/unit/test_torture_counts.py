"""What a night tries, and a share of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale import VARIABLE, times
from tests.torture.night import CYCLES, ROUNDS, Done, Step, main, run, steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("share", "often"), [(None, 5), ("0", 5), ("0.01", 5), ("0.1", 20), ("1", 200)]
)
def test_a_share_of_a_night_is_never_less_than_what_a_change_gets(
    monkeypatch: pytest.MonkeyPatch, share: str | None, often: int
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if share is not None:
        monkeypatch.setenv(VARIABLE, share)
    assert times(5, 200) == often


@pytest.mark.parametrize("share", ["-0.1", "1.1", "much"])
def test_a_share_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv(VARIABLE, share)
    with pytest.raises(ValueError, match=VARIABLE):
        times(5, 200)


def test_a_night_has_all_its_rounds_and_names_files_that_are_there() -> None:
    night = list(steps(1.0, 7))
    assert f"--cycles {CYCLES} --seed 7" in " ".join(night[0].words)
    assert sum("round" in step.name for step in night) == ROUNDS
    files = {word for step in night for word in step.words if word.startswith("tests/")}
    assert all((ROOT / file).exists() for file in files), files


def test_a_step_that_the_clock_cuts_has_not_failed() -> None:
    endless = Step("waits", ("http.server", "0", "--bind", "127.0.0.1"))  # for requests
    cut = run(endless, 0.0, 1.0)
    assert cut.code is None
    assert str(cut).startswith("cut")
    assert str(Done("broken", 1, 3)).startswith("FAILED")


@pytest.mark.parametrize("words", [["--scale", "2"], ["--scale", "-1"], ["--minutes", "0"]])
def test_counts_that_make_no_night_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert words[0] in capsys.readouterr().err
