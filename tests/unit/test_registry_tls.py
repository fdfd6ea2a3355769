"""A registry behind TLS: its certificate, and ours."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.registry import RegistrySettings, Schemas
from tests.schema_registry import FakeRegistry


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    """Files with a certificate for the loopback address, which signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    shown, secret = folder / f"{name}.crt", folder / f"{name}.key"
    shown.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return shown, secret


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
