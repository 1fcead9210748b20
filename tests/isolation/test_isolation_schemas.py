"""A tenant's schema is its own: no translation, qualified name or missing table leads to another's."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from isolation_models import Note
from isolation_worlds import SCHEMAS, Kind, opened
from sqlalchemy import select, text

from dotmac.database import RequestContext, use_context
from dotmac.database.engine._sessions import placed_session
from dotmac.database.errors import DatabaseError
from dotmac.database.tenancy import IsolationMode, Placement
from dotmac.database.testing.isolation import ATTACKER, OTHER


@pytest.fixture(
    params=[
        Kind("schemas", "psycopg", is_async=False),
        Kind("schemas", "psycopg", is_async=True),
        Kind("schemas", "asyncpg", is_async=True),
    ],
    ids=str,
)
def world(request, databases):
    with opened(databases, request.param) as made:
        yield made


def seen(world, act):
    """What ``act`` sees in the attacker's session; nothing if it is refused."""

    def work():
        with world.trial.open(ATTACKER) as session:
            return [tuple(row) for row in act(session)]

    try:
        return world.run(work)
    except (DatabaseError, sa.exc.SQLAlchemyError):
        return []


FOREIGN = sa.Table(
    "attacked_notes",
    sa.MetaData(),
    sa.Column("tenant_id", sa.String),
    sa.Column("body", sa.String),
    schema=SCHEMAS[OTHER],
)

ROADS = {
    "22-translate-map-of-the-connection": lambda session: session.connection(
        execution_options={"schema_translate_map": {None: SCHEMAS[OTHER]}}
    ).execute(select(Note.__table__.c.tenant_id, Note.__table__.c.body)),
    "22-translate-map-of-the-statement": lambda session: session.execute(
        select(Note.tenant_id, Note.body), execution_options={"schema_translate_map": {None: SCHEMAS[OTHER]}}
    ),
    "60-table-object-in-the-other-schema": lambda session: session.execute(select(FOREIGN)),
    "60-text-that-names-the-other-schema": lambda session: session.execute(
        text(f"SELECT tenant_id, body FROM {SCHEMAS[OTHER]}.attacked_notes")  # noqa: S608 - it is an attack
    ),
    "60-search-path-by-text": lambda session: (
        session.execute(text(f"SET LOCAL search_path = {SCHEMAS[OTHER]}")),
        session.execute(select(Note.tenant_id, Note.body)).all(),
    )[1],
}


@pytest.mark.parametrize("act", ROADS.values(), ids=ROADS)
def test_no_road_leads_to_another_tenants_schema(world, act):
    assert OTHER not in {row[0] for row in seen(world, act)}


def test_22_statements_for_one_schema_are_not_reused_for_anothers(world):
    for tenant in (OTHER, ATTACKER, OTHER, ATTACKER):

        def work(tenant=tenant):
            with world.trial.open(tenant) as session:
                return {note.tenant_id for note in session.scalars(select(Note))}

        assert world.run(work) == {tenant}


def test_58_a_missing_table_does_not_fall_through_to_public(world):
    administrator = world.trial.administrators[OTHER]
    with administrator.begin() as connection:
        connection.execute(text("CREATE TABLE public.attacked_notes AS TABLE attacked_notes"))
        connection.execute(text("CREATE SCHEMA tenant_without_tables"))
    try:
        for schema in ("tenant_without_tables", "tenant_that_is_not_there"):

            def work(schema=schema):
                with use_context(RequestContext(tenant_id=OTHER)):
                    made = world.trial.sessions()
                placed_session(made, Placement(OTHER, IsolationMode.SCHEMA, schema=schema))
                session = getattr(made, "sync_session", made)
                try:
                    return session.scalars(select(Note)).all()
                finally:
                    session.close()

            with pytest.raises((DatabaseError, sa.exc.DBAPIError), match="attacked_notes"):
                world.run(work)
    finally:
        with administrator.begin() as connection:
            connection.execute(text("DROP TABLE public.attacked_notes; DROP SCHEMA tenant_without_tables"))
