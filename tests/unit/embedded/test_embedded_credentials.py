"""Passwords are random, hidden, and reach PostgreSQL as verifiers only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat

import pytest

from dotmac.database.embedded._credentials import Credentials, scram_verifier


def test_every_server_gets_passwords_of_its_own():
    assert Credentials() != Credentials()
    assert len(Credentials().app) == 32


def test_repr_hides_passwords():
    credentials = Credentials()
    assert repr(credentials) == "Credentials()"


def test_saved_passwords_are_private_and_come_back(tmp_path):
    path = tmp_path / "credentials.json"
    credentials = Credentials.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Credentials.load_or_create(path) == credentials


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"other": 1}'])
def test_damaged_file_is_replaced(tmp_path, damage):
    path = tmp_path / "credentials.json"
    path.write_text(damage)
    assert Credentials.load_or_create(path) == Credentials.load_or_create(path)


def test_verifier_proves_the_password_without_holding_it():
    verifier = scram_verifier("secret")
    method, parameters, keys = verifier.split("$")
    iterations, salt = parameters.split(":")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    salted = hashlib.pbkdf2_hmac("sha256", b"secret", base64.b64decode(salt), int(iterations))
    assert method == "SCRAM-SHA-256"
    assert stored == hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert server == hmac.digest(salted, b"Server Key", "sha256")
    assert "secret" not in verifier
