"""What is asked of the dead letters, and done with them, outside of an ingest run."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from k2i_tasks import secrets
from k2i_tasks.calls import RetryPolicy
from k2i_tasks.config import Config
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.letters import Letters
from k2i_tasks.iceberg.marks import Marks
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import replay_sink
from k2i_tasks.replay import Replay, Replayed, ReplayOptions, ReplayTables
from k2i_tasks.wiring_decoders import Decoders


def open_letters(config: Config) -> Letters:
    """The dead letters of the configured table as they are now. May block.

    Raises:
        ServiceError: there is no such table, or no right to read it.
        TransientError: the catalog is away.
    """
    catalog = open_catalog(config.iceberg, secrets.opened(config))
    return Letters.load(catalog, config.iceberg.dead_letter_identifier)


def build_replay(config: Config, told: Callable[[Replayed], None]) -> Replay:
    """What replays the dead letters into the configured table. Reaches the catalog. May block.

    Args:
        config: the whole configuration.
        told: called with what is done so far.

    Raises:
        K2IError: a secret cannot be read, or the catalog is away.
    """
    resolved = secrets.opened(config)
    iceberg = config.iceberg
    catalog = guard_commits(open_catalog(iceberg, resolved))
    beside = iceberg.dead_letter_identifier
    columns = iceberg.metadata_columns
    committer = Committer(
        catalog,
        iceberg.identifier,
        sink=replay_sink(iceberg.sink),
        branch=iceberg.branch,
        owner=uuid.uuid4().hex,
    )
    tables = ReplayTables(
        letters=lambda: Letters.load(catalog, beside),
        marks=Marks(catalog, beside, iceberg.compression),
        staging=Staging(catalog, iceberg.identifier, config),
        committer=committer,
    )
    options = ReplayOptions(
        topic=config.kafka.topic,
        sink=iceberg.sink,
        positions=PositionColumns(columns.partition, columns.offset, columns.topic),
        on_rollback=iceberg.on_rollback,
        retry=RetryPolicy(budget_seconds=config.run.retry_budget_seconds),
    )
    return Replay(tables, Decoders(config, resolved).decoder, options, told)
