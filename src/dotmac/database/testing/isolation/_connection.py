"""Attacks by what stays behind on a connection that the next tenant gets (30, 36, 39)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from dotmac.database.testing.isolation._attack import attack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.testing.isolation._attack import Stage


def _left_behind(stage: Stage, statement: str) -> str:
    """Run ``statement`` on the table as the other tenant, commit, and give its connection back; returns its name."""
    stage.only_on("postgresql")
    table = stage.session.get_bind().dialect.identifier_preparer.format_table(stage.table)
    with stage.open(stage.subject.other) as session:
        session.execute(text(statement.format(table=table)))
        session.commit()
    return table


@attack(36)
def cursor_with_hold(stage: Stage) -> Iterator[Any]:
    _left_behind(stage, "DECLARE attack_cursor CURSOR WITH HOLD FOR SELECT * FROM {table}")
    try:
        yield from stage.session.execute(text("FETCH ALL FROM attack_cursor")).all()
    finally:
        stage.session.rollback()
        stage.session.connection().connection.cursor().execute("CLOSE ALL")


@attack(36)
def temporary_table_left_behind(stage: Stage) -> Iterator[Any]:
    _left_behind(stage, "CREATE TEMP TABLE attack_left_behind AS TABLE {table}")
    try:
        yield from stage.session.execute(text("SELECT * FROM attack_left_behind")).all()
    finally:
        stage.session.rollback()
        stage.session.connection().connection.cursor().execute("DROP TABLE attack_left_behind")
        stage.session.commit()


@attack(36)
def temporary_table_that_shadows(stage: Stage) -> Iterator[Any]:
    """The other tenant's temporary table of the same name, filled under the attacker's name."""
    table = _left_behind(stage, "CREATE TEMP TABLE {table} AS TABLE {table}")
    try:
        yield stage.session.execute(select(stage.table)).all()
    finally:
        stage.session.rollback()
        stage.session.connection().connection.cursor().execute(f"DROP TABLE pg_temp.{table}")
        stage.session.commit()


@attack(30)
def setting_of_the_session_left_behind(stage: Stage) -> Iterator[Any]:
    """Code that goes round the session has set the tenant for the connection's life."""
    stage.only_on("postgresql")
    with stage.open(stage.subject.other) as session:
        cursor = session.connection().connection.cursor()
        cursor.execute(f"SET app.tenant_id = '{stage.subject.other}'")
        session.commit()
    try:
        yield stage.session.scalars(select(stage.model)).all()
        yield stage.session.execute(select(stage.table)).all()
        with stage.open(None) as session:
            yield session.execute(select(stage.table)).all()
    finally:
        stage.session.rollback()
        stage.session.connection().connection.cursor().execute("RESET app.tenant_id")
        stage.session.commit()


@attack(31)
def setting_of_a_released_savepoint(stage: Stage) -> Iterator[Any]:
    """``RELEASE SAVEPOINT`` keeps what ``SET LOCAL`` set within it."""
    stage.only_on("postgresql")
    with stage.session.begin_nested():
        cursor = stage.session.connection().connection.cursor()
        cursor.execute(f"SET LOCAL app.tenant_id = '{stage.subject.other}'")
    yield stage.session.scalars(select(stage.model)).all()
    yield stage.session.execute(select(stage.table)).all()
