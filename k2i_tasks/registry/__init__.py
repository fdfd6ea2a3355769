"""Confluent's Schema Registry: schemas by their ids, kept in memory and on disk."""

from __future__ import annotations

from k2i_tasks.registry.client import RegistrySettings
from k2i_tasks.registry.disk import DiskCache
from k2i_tasks.registry.model import WriterSchema
from k2i_tasks.registry.schemas import Schemas

__all__ = ["DiskCache", "RegistrySettings", "Schemas", "WriterSchema"]
