"""Column types: moments keep their instant everywhere, secrets are readable with a right key only."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import column, create_engine, literal, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from dotmac.database.context import TenantId
from dotmac.database.errors import ConfigurationError
from dotmac.database.models import EncryptedString, TenantAwareMixin, TenantModel, UTCDateTime

DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}
MOMENT = dt.datetime(2026, 3, 29, 3, 30, 0, 123456, tzinfo=dt.timezone(dt.timedelta(hours=2)))
SQLITE = DIALECTS["sqlite"]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_moment_comes_back_as_the_same_instant_in_utc(dialect):
    kind = UTCDateTime()
    back = kind.process_result_value(kind.process_bind_param(MOMENT, dialect), dialect)
    assert back == MOMENT
    assert back.tzinfo is dt.UTC


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_naive_moment_is_refused(dialect):
    with pytest.raises(ValueError, match="naive"):
        UTCDateTime().process_bind_param(MOMENT.replace(tzinfo=None), dialect)


@pytest.mark.parametrize("kind", [UTCDateTime(), EncryptedString(["key"])])
def test_none_stays_none(kind):
    assert kind.process_bind_param(None, SQLITE) is None
    assert kind.process_result_value(None, SQLITE) is None


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("postgresql", "TIMESTAMP WITH TIME ZONE"), ("sqlite", "DATETIME"), ("mysql", "DATETIME(6)")],
)
def test_a_moment_keeps_its_microseconds_in_each_dialect(dialect, expected):
    assert UTCDateTime().compile(dialect=DIALECTS[dialect]) == expected


def test_a_moment_round_trips_through_a_driver():
    with create_engine("sqlite://").connect() as connection:
        assert connection.scalar(select(literal(MOMENT, UTCDateTime()))) == MOMENT


def sealed(text, keys):
    return EncryptedString(keys).process_bind_param(text, SQLITE)


def opened(token, keys):
    return EncryptedString(keys).process_result_value(token, SQLITE)


@pytest.mark.parametrize(
    "key",
    [Fernet.generate_key().decode(), "a passphrase of any length", "é", "x" * 44],
    ids=["fernet", "words", "one", "44"],
)
def test_text_is_encrypted_with_any_key(key):
    token = sealed("secret", [key])
    assert "secret" not in token
    assert token != sealed("secret", [key])
    assert opened(token, [key]) == "secret"


def test_a_real_fernet_key_is_used_as_it_is():
    key = Fernet.generate_key()
    assert Fernet(key).decrypt(sealed("secret", [key.decode()]).encode()) == b"secret"


def test_keys_rotate_by_putting_the_new_one_first():
    token = sealed("secret", ["old"])
    assert opened(token, ["new", "old"]) == "secret"
    assert opened(sealed("secret", ["new", "old"]), ["new"]) == "secret"


def test_a_wrong_key_is_a_clear_error_without_the_text():
    token = sealed("secret", ["right"])
    with pytest.raises(ConfigurationError, match="DB_ENCRYPTION_KEY") as refused:
        opened(token, ["wrong"])
    assert token not in str(refused.value)


@pytest.mark.parametrize("keys", [[], lambda: ()])
def test_no_key_is_a_clear_error(keys):
    with pytest.raises(ConfigurationError, match="No encryption key"):
        sealed("secret", keys)


def test_keys_come_from_the_settings_by_default(monkeypatch):
    monkeypatch.setenv("DB_ENCRYPTION_KEY", "new, old")
    assert opened(sealed("secret", ["old"]), None) == "secret"


def test_a_key_may_be_asked_for_late():
    keys: list[str] = []
    kind = EncryptedString(lambda: keys)
    keys.append("late")
    assert kind.process_result_value(sealed("x", ["late"]), SQLITE) == "x"


def test_no_key_is_shown():
    kind = EncryptedString(["hush-hush"])
    shown = repr(kind) + str(kind) + repr(column("c", kind).type) + str(kind.compile(dialect=SQLITE))
    assert "hush" not in shown


@pytest.mark.parametrize("model", [TenantAwareMixin, TenantModel])
def test_tenants_of_mysql_differ_by_case(model):
    column_type = model.__dict__["tenant_id"].column.type
    assert column_type.compile(dialect=mysql.dialect()) == (
        "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )
    assert column_type.compile(dialect=postgresql.dialect()) == "VARCHAR(255)"


@pytest.mark.parametrize("text", [" acme", "acme ", "\tacme", "", " "])
def test_a_tenant_id_neither_begins_nor_ends_with_a_space(text):
    with pytest.raises(ValueError, match="tenant id"):
        TenantId(text)
