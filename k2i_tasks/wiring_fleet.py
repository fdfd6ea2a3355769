"""Builds what runs many tables in one process."""

from __future__ import annotations

from k2i_tasks import secrets
from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.clock import SystemClock
from k2i_tasks.config import Config
from k2i_tasks.config.routes import Plan, Route, plan
from k2i_tasks.errors import ConfigError
from k2i_tasks.fleet import Fleet
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.discovery import TopicNames
from k2i_tasks.metrics import Metrics
from k2i_tasks.ports import TrackerFactory
from k2i_tasks.runner import Runner
from k2i_tasks.wiring import LOOK_SECONDS, build_runner

#: First wait after a table has failed, in seconds.
RESTART_SECONDS = 1.0


def build_fleet(config: Config, *, tracker_factory: TrackerFactory, metrics: Metrics) -> Fleet:
    """Everything that the tables of `config.routing` need, ready to `run()`. Reaches nothing yet.

    Raises:
        K2IError: a secret cannot be read, or librdkafka refuses a setting.
    """
    routing = config.routing
    names = TopicNames(consumer_settings(config.kafka, secrets.opened(config)))

    def planned() -> Plan:
        return plan(config, names.ask(LOOK_SECONDS), routing.max_tables)

    def build(route: Route, tracker: Tracker, buffer_bytes: int, tables: int) -> Runner:
        runner = build_runner(
            route.config,
            tracker_factory=lambda _status, _drain: tracker,
            metrics=metrics,
            clients=tables,
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
    )


def configs_of(config: Config) -> list[Config]:
    """The configuration of each table there is by `config`, one or many.

    Raises:
        K2IError: Kafka cannot be asked for its topics, or a secret cannot be read.
        ConfigError: a topic that is chosen has no table.
    """
    if not config.routing.enabled:
        return [config]
    names = TopicNames(consumer_settings(config.kafka, secrets.opened(config)))
    found = plan(config, names.ask(LOOK_SECONDS), config.routing.max_tables)
    for topic, why in found.refused.items():
        raise ConfigError(f"Topic {topic} has no table: {why}", field="routing")
    return [route.config for route in found.routes]
