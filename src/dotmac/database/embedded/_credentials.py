"""Random passwords of one server, kept out of every repr, and their SCRAM verifiers for PostgreSQL.

Only verifiers travel to the server, so that no password can end up in its log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ITERATIONS = 4096
_SALT_BYTES = 16


def new_password() -> str:
    """192 random bits as text that needs no quoting in a URL."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The passwords of the two roles of a server."""

    admin: str = field(default_factory=new_password, repr=False)
    app: str = field(default_factory=new_password, repr=False)

    def save(self, path: Path) -> None:
        """Write the passwords to ``path``, readable for its owner only."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"admin": self.admin, "app": self.app}, file)

    @classmethod
    def load_or_create(cls, path: Path) -> Credentials:
        """The passwords saved at ``path``; new ones, saved there, when there are none or the file is damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            fresh = cls()
            fresh.save(path)
            return fresh


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for ``password`` (RFC 5803, SCRAM-SHA-256)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    return f"SCRAM-SHA-256${_ITERATIONS}:{text(salt)}${text(stored)}:{text(server)}"
