"""Who may ask: bearer tokens, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

SCHEME = "Bearer "
#: Name of whoever comes with the token that lies in the run's folder.
LOCAL = "local"


def fresh_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


class Tokens:
    """Knows tokens by their digests; does not show them.

    Args:
        by_name: token by the name of whoever has it.
    """

    def __init__(self, by_name: Mapping[str, str]) -> None:
        self._digests = {name: _digest(token) for name, token in by_name.items()}

    def bearer(self, header: str | None) -> str | None:
        """Whose token is in an Authorization header; None if it is nobody's."""
        if header is None or header[: len(SCHEME)].lower() != SCHEME.lower():
            return None
        asked = _digest(header[len(SCHEME) :].strip())
        found = None
        # All are looked at, so that the time tells nothing.
        for name, digest in self._digests.items():
            if hmac.compare_digest(asked, digest):
                found = name
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
