"""As whom servers run, and what they can reach."""

from __future__ import annotations

import os

import pytest

from dotmac.database.embedded import _identity
from dotmac.database.embedded._identity import Identity, server_identity
from dotmac.database.errors import EmbeddedServerError


@pytest.fixture(autouse=True)
def fresh():
    server_identity.cache_clear()
    yield
    server_identity.cache_clear()


@pytest.mark.parametrize(
    ("uid", "named", "namespaces", "other", "expected"),
    [
        (1000, True, True, (7, 8), Identity()),
        (1000, False, True, (7, 8), Identity(namespace=(7, 8))),
        (1000, False, False, (7, 8), Identity()),
        (0, True, True, (7, 8), Identity(namespace=(7, 8))),
        (0, True, True, None, Identity(namespace=(65534, 65534))),
        (0, True, False, (7, 8), Identity(user=(7, 8))),
    ],
)
def test_identity_depends_on_who_we_are(monkeypatch, uid, named, namespaces, other, expected):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(_identity, "_has_name", lambda _uid: named)
    monkeypatch.setattr(_identity, "_namespaces_work", lambda _inner: namespaces)
    monkeypatch.setattr(_identity, "_unprivileged_user", lambda: other)
    assert server_identity() == expected


def test_lonely_root_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(_identity, "_namespaces_work", lambda _inner: False)
    monkeypatch.setattr(_identity, "_unprivileged_user", lambda: None)
    with pytest.raises(EmbeddedServerError, match="Run as an ordinary user, or add one"):
        server_identity()


def test_another_user_cannot_enter_private_directories(tmp_path):
    stranger = Identity(user=(54321, 54321))
    (tmp_path / "private").mkdir(mode=0o700)
    assert not stranger.can_enter(tmp_path / "private")
    assert Identity().can_enter(tmp_path / "private")
