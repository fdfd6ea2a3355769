"""The configuration: one frozen model, read from TOML, environment and command line."""

from __future__ import annotations

from k2i_tasks.config.demo import demo_config, load_demo
from k2i_tasks.config.load import load_config
from k2i_tasks.config.model import Config
from k2i_tasks.config.notes import notes
from k2i_tasks.config.parameters import refuse_secrets

__all__ = ["Config", "demo_config", "load_config", "load_demo", "notes", "refuse_secrets"]
