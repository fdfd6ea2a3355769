"""Settings of the Iceberg catalogs and object stores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from k2i_tasks.config.fields import (
    AnyCaseLower,
    Branch,
    Flag,
    HttpUrl,
    Integer,
    Name,
    Secret,
    Section,
    SqlUrl,
    Text,
    setting,
)

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]


class CatalogManager(Section):
    """How the catalog is called."""

    connection_pool_size: Integer = setting("Connections to the catalog.", 5, ge=1, le=1_000)
    health_check_interval_seconds: Integer = setting(
        "Time between checks of the catalog.", 60, ge=1, le=86_400
    )
    reconnect_backoff_ms: tuple[Annotated[Integer, Field(ge=0, le=3_600_000)], ...] = setting(
        "Waits before the first, second, ... new attempt.",
        (100, 500, 2_000, 5_000),
        min_length=1,
        max_length=64,
    )
    max_retries: Integer = setting("New attempts after a passing fault.", 3, ge=0, le=1_000)
    request_timeout_seconds: Integer = setting(
        "Longest wait for one answer of the catalog.", 30, ge=1, le=3_600
    )


class TableManagement(Section):
    """What happens to the table itself."""

    auto_create_if_missing: Flag = setting("Create the table when it is not there.", True)
    schema_mismatch_action: Annotated[Literal["fail", "evolve", "warn"], AnyCaseLower] = setting(
        "When the table that is there has another schema than the records.", "fail"
    )
    partition_strategy: Annotated[
        Literal["daily", "hourly", "identity", "bucket"], AnyCaseLower
    ] = setting(
        "Partitions of a table that we create, when given and there is no partition_spec.", "daily"
    )


class RestCatalog(Section):
    """Login at a REST catalog."""

    credential_type: Annotated[Literal["none", "bearer", "oauth2"], AnyCaseLower] = setting(
        "How to log in.", "none"
    )
    credential: Secret | None = setting("Token, for bearer.", None)
    oauth2_token_endpoint: HttpUrl | None = setting("Where tokens are given out, for oauth2.", None)
    oauth2_client_id: Secret | None = setting("Client id, for oauth2.", None)
    oauth2_client_secret: Secret | None = setting("Client secret, for oauth2.", None)
    oauth2_scope: Text | None = setting("Scope to ask for, for oauth2.", None)
    request_timeout_seconds: Integer | None = setting(
        "Longest wait for one answer; overrides catalog_manager when given.", None, ge=1, le=3_600
    )
    custom_headers: dict[HeaderName, Secret] = setting(
        "Headers sent with each request; their values are secrets.", {}, max_length=64
    )


class GlueCatalog(Section):
    """The AWS Glue catalog."""

    role_arn: Text | None = setting("IAM role to assume.", None)
    external_id: Text | None = setting("External id for that role.", None)
    catalog_id: Text | None = setting("Catalog id; the account's own when not given.", None)


class NessieCatalog(Section):
    """The Nessie catalog."""

    default_branch: Branch = setting("Branch of the catalog.", "main")
    api_version: Annotated[Literal["v1", "v2"], AnyCaseLower] = setting("Version of its API.", "v1")


class SqlCatalog(Section):
    """A catalog in an SQL database."""

    type: Annotated[Literal["sqlite", "postgres"], AnyCaseLower] = setting(
        "Kind of database.", "sqlite"
    )
    url: SqlUrl | None = setting(
        "SQLAlchemy's URL; an absolute SQLite path has four slashes: `sqlite:////srv/catalog.db`.",
        None,
    )
    catalog_name: Name = setting("Name of the catalog in the database's tables.", "k2i")


class ObjectStore(Section):
    """Where data files go, when that is not told by warehouse_path."""

    type: Annotated[Literal["filesystem", "s3", "gcs", "azure"], AnyCaseLower] = setting(
        "Kind of store.", "filesystem"
    )
    root: Text | None = setting("Folder or URI of the store.", None)
