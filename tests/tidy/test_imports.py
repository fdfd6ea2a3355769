"""The house rules on imports: they point strictly down, and each third party has one door."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy.source import PROGRAM, ROOT, imports, module_name, python_files

#: Lowest first. A part, which is a module or package directly under k2i_tasks, imports only parts
#: of lower layers; parts of one layer never import each other. A new part is added here, as low as
#: it can be.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "types errors clock closing collector discovery durable figures no_rows "
        "predicates sql_words server_keeper resident",
        "cold_frame status views",
        "ages",
        "calls config metrics logs failpoints sql_guard local_server progress registry resumption "
        "tickets",
        "acknowledger asking client engine kafka codecs buffer wal iceberg serving secrets",
        "hot_rows cells prefect_api standstill terminal_parts cli_options cli_status",
        "doors hot_view journal letterbox query tracking terminal cli_frame",
        "hot_tables maintenance operations replay table_view summary verification wiring_query",
        "ports",
        "batch_calls cli_follow intake upkeep",
        "cli_query takeover underway",
        "runner wiring_decoders wiring_upkeep fleet_status",
        "fleet wiring tasks",
        "companion wiring_letters wiring_shared wiring_table",
        "wiring_fleet",
        "cli_letter_views cli_maintenance cli_schema cli_verify tracking_choice",
        "cli_dead_letters ingest",
        "flows",
        "cli",
    )
)
#: Third party -> the only modules that import it; a final dot stands for all below.
DOORS: dict[str, tuple[str, ...]] = {
    "prefect": ("flows.", "k2i_tasks.tasks", "k2i_tasks.prefect_api"),
    "confluent_kafka": ("k2i_tasks.kafka.",),
    "pyiceberg": ("k2i_tasks.iceberg.",),
    "prometheus_client": ("k2i_tasks.metrics",),
    "duckdb": (),
    "google": ("k2i_tasks.codecs.",),
    "grpc_tools": ("k2i_tasks.codecs.protobuf_child",),
    "httpx": ("k2i_tasks.registry.", "k2i_tasks.prefect_api"),
}
FILES = python_files(*PROGRAM)


def part_of(module: str) -> str:
    """`wal` for k2i_tasks.wal.log, `flows` for all flows, nothing for the root package."""
    first, *rest = module.split(".")
    if first == "flows":
        return "flows"
    return rest[0] if first == "k2i_tasks" and rest else ""


def layer_of(part: str) -> int:
    for number, parts in enumerate(LAYERS):
        if part in parts:
            return number
    raise KeyError(part)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def breach(importer: str, imported: str) -> str:
    """What is wrong with this import, or nothing."""
    upper, lower = part_of(importer), part_of(imported)
    if upper == lower or not upper or not lower:
        return ""
    if layer_of(upper) > layer_of(lower):
        return ""
    how = "beside" if layer_of(upper) == layer_of(lower) else "above"
    return f"{importer} imports {imported}, which stands {how} it"


def test_every_part_has_its_layer() -> None:
    parts = {part_of(module_name(path)) for path in FILES} - {""}
    unplaced = sorted(parts - frozenset().union(*LAYERS))
    assert not unplaced, f"add to LAYERS, as low as they can be: {unplaced}"


def test_no_part_stands_in_two_layers() -> None:
    assert sum(map(len, LAYERS)) == len(frozenset().union(*LAYERS))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_strictly_down(path: Path) -> None:
    importer = module_name(path)
    found = [
        f"line {line}: {wrong}"
        for imported, line in imports(path)
        if (wrong := breach(importer, imported))
    ]
    assert not found, "\n".join(found)


def test_the_rule_knows_an_import_upwards_and_one_sideways() -> None:
    assert "above" in breach("k2i_tasks.wal.log", "k2i_tasks.operations")
    assert "beside" in breach("k2i_tasks.wal.log", "k2i_tasks.iceberg.state")
    assert "above" in breach("k2i_tasks.wiring", "flows.ingest")
    assert not breach("flows.ingest", "k2i_tasks.wiring")
    assert not breach("k2i_tasks.wal.log", "k2i_tasks.wal.format")


@pytest.mark.parametrize("third_party", DOORS)
def test_a_third_party_is_imported_by_its_door_alone(third_party: str) -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in FILES
        for imported, line in imports(path)
        if imported.split(".")[0] == third_party
        and not f"{module_name(path)}.".startswith(
            tuple(f"{door.rstrip('.')}." for door in DOORS[third_party])
        )
    ]
    assert not found, f"{third_party} is imported outside {DOORS[third_party]}: {found}"


def test_the_program_imports_nothing_of_the_tests() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in FILES
        for imported, line in imports(path)
        if imported.split(".")[0] in ("tests", "pytest", "hypothesis")
    ]
    assert not found
