"""A setting either changes something or is said not to."""

from __future__ import annotations

import re
from pathlib import Path

from k2i_tasks.config.keys import Key, all_keys
from k2i_tasks.config.notes import UNUSED

ROOT = Path(__file__).parents[2]


def source() -> str:
    """Everything that may read a setting; of the configuration itself only the model's methods."""
    files = [*ROOT.joinpath("k2i_tasks").rglob("*.py"), *ROOT.joinpath("flows").rglob("*.py")]
    outside = [path.read_text(encoding="utf-8") for path in files if path.parent.name != "config"]
    inside = [path.read_text(encoding="utf-8") for path in files if path.parent.name == "config"]
    return "\n".join([*outside, *re.findall(r"self\.\w+", "\n".join(inside))])


def is_read(key: Key, text: str) -> bool:
    """Whether some code reads an attribute, or looks up a name, for each part of the key."""
    if f'"{key.dotted}"' in text:
        return True
    return all(re.search(rf'\.{name}\b|"{name}"', text) for name in key.path)


def test_every_setting_is_read_somewhere_or_noted_as_not_used() -> None:
    text = source()
    silent = [
        key.dotted for key in all_keys() if key.dotted not in UNUSED and not is_read(key, text)
    ]
    assert silent == []
