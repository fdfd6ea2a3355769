"""Builds what runs many tables in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set

from k2i_tasks import secrets
from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.clock import SystemClock
from k2i_tasks.config import Config
from k2i_tasks.config.plans import Plan, plan
from k2i_tasks.config.routes import Route
from k2i_tasks.errors import ConfigError
from k2i_tasks.fleet import Fleet
from k2i_tasks.hot_tables import HotTables
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.discovery import TopicNames
from k2i_tasks.metrics import Metrics
from k2i_tasks.ports import TrackerFactory
from k2i_tasks.runner import Runner
from k2i_tasks.wiring import LOOK_SECONDS, build_runner
from k2i_tasks.wiring_shared import SharedTopics, known_values

#: First wait after a table has failed, in seconds.
RESTART_SECONDS = 1.0


def build_fleet(
    config: Config,
    *,
    tracker_factory: TrackerFactory,
    metrics: Metrics,
    hot: HotTables | None = None,
) -> Fleet:
    """Everything that the tables of `config.routing` need, ready to `run()`. Reaches nothing yet.

    Args:
        config: of the process.
        tracker_factory: makes what runs flushes and commits.
        metrics: told what happens.
        hot: where queries find the tables; None for no queries.

    Raises:
        K2IError: a secret cannot be read, or librdkafka refuses a setting.
    """
    routing, resolved = config.routing, secrets.opened(config)
    known = _known_topics(config, resolved)
    woken = threading.Event()
    shared = SharedTopics(config, resolved, woken.set) if routing.by_value else None

    def planned(running: Set[str]) -> Plan:
        topics = known()
        if shared is None:
            return plan(config, topics, routing.max_tables, first=running)
        values, failed = shared.look(topics)
        found = plan(config, topics, routing.max_tables, values, running)
        return Plan(found.routes, {**found.refused, **failed})

    def build(route: Route, tracker: Tracker, buffer_bytes: int, tables: int) -> Runner:
        runner = build_runner(
            route.config,
            tracker_factory=lambda _status, _drain: tracker,
            metrics=metrics,
            clients=tables,
            source=None if shared is None else shared.source(route),
            start_rule=None if shared is None else shared.start_rule(route),
            hot=hot,
        )
        runner.resize(buffer_bytes)
        return runner

    return Fleet(
        plan=planned,
        build=build,
        tracker_factory=tracker_factory,
        clock=SystemClock(),
        buffer_bytes_max=config.buffer.size_bytes_max,
        discovery_seconds=float(routing.discovery_seconds),
        policy=RetryPolicy(
            initial_seconds=RESTART_SECONDS, max_wait_seconds=float(routing.restart_seconds_max)
        ),
        drain_seconds=config.run.drain_timeout_seconds,
        woken=woken,
        shared=shared,
        on_gone=None if hot is None else lambda route: hot.forget(route.table),
    )


def configs_of(config: Config) -> list[Config]:
    """The configuration of each table there is by `config`, one or many.

    Raises:
        K2IError: Kafka cannot be asked for its topics, or a secret cannot be read.
        ConfigError: a topic that is chosen has no table.
    """
    if not config.routing.enabled:
        return [config]
    topics = _known_topics(config, secrets.opened(config))()
    found = plan(config, topics, config.routing.max_tables, known_values(config, topics))
    for topic, why in found.refused.items():
        raise ConfigError(f"Topic {topic} has no table: {why}", field="routing")
    return [route.config for route in found.routes]


def _known_topics(config: Config, resolved: Mapping[str, str]) -> Callable[[], list[str]]:
    """What asks Kafka which topics there are to read. May block, and raise K2IError."""
    names = TopicNames(consumer_settings(config.kafka, resolved))
    return lambda: config.chosen_topics(names.ask(LOOK_SECONDS))
