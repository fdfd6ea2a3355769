"""The configuration reference says what the model is."""

from __future__ import annotations

from pathlib import Path

from k2i_tasks.config.keys import all_keys, by_path
from k2i_tasks.config.notes import UNUSED
from k2i_tasks.config.reference import markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == markdown(), (
        "run: python -m k2i_tasks.config.reference > docs/configuration.md"
    )


def test_the_reference_has_every_variable() -> None:
    text = markdown()
    assert [key.variable for key in all_keys() if f"`{key.variable}`" not in text] == []


def test_every_key_is_described_in_one_sentence() -> None:
    bad = [k.dotted for k in all_keys() if not (k.field.description or "").endswith(".")]
    assert bad == []


def test_keys_noted_as_not_used_are_keys() -> None:
    assert set(UNUSED) <= {".".join(path) for path in by_path()}
