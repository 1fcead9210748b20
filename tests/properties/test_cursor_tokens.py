"""Whatever a client sends as a cursor, the answer is a page or InvalidCursorError."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import os
import uuid
from decimal import Decimal  # noqa: TC003 - SQLAlchemy reads the annotation

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Enum, Float, LargeBinary, Numeric
from sqlalchemy.orm import Mapped, mapped_column

from dotmac.database.errors import InvalidCursorError
from dotmac.database.models import BaseModel, describe
from dotmac.database.query import QueryOptions, SortField, seal, total_order, unseal
from dotmac.database.query._cursor import fingerprint
from dotmac.database.query._keyset import after
from dotmac.database.query._paging import Cursors
from dotmac.database.tenancy import Scope

PROVE = settings(
    max_examples=5000 if os.environ.get("DOTMAC_TEST_FULL") == "1" else 200, deadline=None, database=None
)
SECRET = "a secret of the tests"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Token(BaseModel):
    __tablename__ = "cursor_tokens"

    name: Mapped[str]
    count: Mapped[int]
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    level: Mapped[Level] = mapped_column(Enum(Level))
    day: Mapped[dt.date]
    flag: Mapped[bool]
    ratio: Mapped[float] = mapped_column(Float())
    digest: Mapped[bytes] = mapped_column(LargeBinary())


SHAPE = describe(Token)
FIELDS = ["name", "count", "price", "level", "day", "flag", "ratio", "digest", "created_at"]
KEYS = total_order(SHAPE, [SortField(field=name) for name in FIELDS])
BOUND_TO = fingerprint(SHAPE, KEYS, QueryOptions(), Scope())
VALUES = st.tuples(
    st.text().filter(lambda text: "\x00" not in text),
    st.integers(-(2**31), 2**31 - 1),
    st.none() | st.decimals(-999, 999, places=2),
    st.sampled_from(Level),
    st.dates(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.uuids(),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["LOW", "NaN", "Infinity", "1e999999", "2026-01-01", "9" * 5000, "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def cursors(secret: str | None) -> Cursors:
    return Cursors(SHAPE, KEYS, BOUND_TO, secret)


def use(token: str, secret: str | None) -> None:
    """What a repository does with a token, up to the database."""
    try:
        position, direction = cursors(secret).decode(token)
    except InvalidCursorError as error:
        assert len(token) < 20 or token not in str(error)  # noqa: PT017 - the token may hold row data
        return
    assert direction in {"after", "before"}
    for dialect in ("postgresql", "sqlite", "mysql"):
        after(KEYS, position, dialect)


@pytest.mark.parametrize("secret", [None, SECRET])
@PROVE
@given(values=VALUES)
def test_a_token_gives_back_the_position_it_was_made_from(secret, values):
    position, direction = cursors(secret).decode(cursors(secret).encode(values, "before"))
    assert (tuple(position), direction) == (values, "before")


@pytest.mark.parametrize("secret", [None, SECRET])
@PROVE
@given(token=st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_noise_is_refused(secret, token):
    with pytest.raises(InvalidCursorError):
        cursors(secret).decode(token)


@PROVE
@given(values=VALUES, data=st.data())
def test_a_signed_token_cannot_be_changed(values, data):
    token = cursors(SECRET).encode(values, "after")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidCursorError, match="signature"):
        cursors(SECRET).decode(base64.urlsafe_b64encode(raw).decode())


@PROVE
@given(values=VALUES, data=st.data())
def test_a_changed_token_without_a_signature_is_a_position_or_refused(values, data):
    token = list(cursors(None).encode(values, "after"))
    for _ in range(data.draw(st.integers(1, 3))):
        token[data.draw(st.integers(0, len(token) - 1))] = data.draw(st.sampled_from("Aa0-_=€ \n"))
    use("".join(token), None)


@PROVE
@given(
    content=JSON
    | st.tuples(
        st.just(BOUND_TO),
        st.sampled_from(["after", "up", 1]) | JSON,
        JSON | st.lists(JSON, min_size=10, max_size=10),
    )
)
def test_a_forged_token_is_a_position_or_refused(content):
    use(seal(content, None), None)


@PROVE
@given(position=st.integers(0, 9), forged=JSON, values=VALUES)
def test_a_forged_value_is_a_position_or_refused(position, forged, values):
    bound_to, direction, parts = unseal(cursors(None).encode(values, "after"), None)
    parts[position] = forged
    use(seal([bound_to, direction, parts], None), None)


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        (QueryOptions(filters=[{"field": "count", "value": 1}]), Scope()),
        (QueryOptions(), Scope(tenant_id="acme")),
        (QueryOptions(), Scope(include_deleted=True)),
    ],
    ids=["filters", "tenant", "deleted rows"],
)
def test_a_token_of_another_query_is_refused(options, scope):
    other = Cursors(SHAPE, KEYS, fingerprint(SHAPE, KEYS, options, scope), None)
    values = [*dict.fromkeys(FIELDS).values(), uuid.uuid4()]
    with pytest.raises(InvalidCursorError, match="another query"):
        cursors(None).decode(other.encode(values, "after"))


def test_a_token_of_another_order_is_refused():
    keys = total_order(SHAPE, [SortField(field="name", order="desc")])
    assert fingerprint(SHAPE, keys, QueryOptions(), Scope()) != BOUND_TO
