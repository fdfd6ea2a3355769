"""A registry behind TLS: its certificate, and ours."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.registry import RegistrySettings, Schemas
from tests.certificates import certified
from tests.schema_registry import FakeRegistry


def test_only_a_certificate_that_is_trusted_is_talked_to_and_ours_is_shown(tmp_path: Path) -> None:
    server, server_key = certified(tmp_path, "server")
    client, client_key = certified(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, server_key)
    with FakeRegistry(context) as registry:
        known = registry.add("s", "{}")
        settings = RegistrySettings(registry.url, tries=1, timeout_seconds=10)
        with pytest.raises(ServiceError, match="not trusted") as refused:
            Schemas(settings, None).schema(known)
        assert "ssl_ca_location" in refused.value.remedy
        trusting = RegistrySettings(registry.url, ca_file=server, tries=1)
        assert Schemas(trusting, None).schema(known).text == "{}"
        # From now on it asks for a certificate of ours, too.
        context.load_verify_locations(client)
        context.verify_mode = ssl.CERT_REQUIRED
        with pytest.raises(TransientError, match="does not answer"):
            Schemas(trusting, None).schema(known)
        both = RegistrySettings(
            registry.url, ca_file=server, certificate_file=client, key_file=client_key, tries=1
        )
        assert Schemas(both, None).schema(known).text == "{}"
