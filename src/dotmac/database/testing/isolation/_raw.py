"""Attacks by SQL as text, whole statements and fragments (1, 37, 48, 53, 54)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, column, false, func, literal_column, select, table, text, true
from sqlalchemy.exc import DBAPIError

from dotmac.database.errors import DatabaseError
from dotmac.database.testing.isolation._attack import Leak, NotApplicableError, attack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.testing.isolation._attack import Stage


def _name(stage: Stage) -> str:
    return stage.session.get_bind().dialect.identifier_preparer.format_table(stage.table)


def _secret(stage: Stage) -> str:
    return stage.session.get_bind().dialect.identifier_preparer.quote(stage.subject.secret.name)


def _literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


@attack(1)
def text_select(stage: Stage) -> Any:
    return stage.session.execute(text(f"SELECT * FROM {_name(stage)}")).all()  # noqa: S608 - it is an attack


@attack(1)
def text_with_comments_and_case(stage: Stage) -> Any:
    return stage.session.execute(text(f"/* x */ sElEcT {_secret(stage)}\nFrOm\t{_name(stage)} -- y")).all()


@attack(1)
def text_subquery(stage: Stage) -> Any:
    return stage.session.execute(
        text(f"WITH x AS (SELECT {_secret(stage)} AS found FROM {_name(stage)}) SELECT found FROM x")  # noqa: S608
    ).all()


@attack(1)
def text_update(stage: Stage) -> Any:
    stage.session.execute(text(f"UPDATE {_name(stage)} SET {_secret(stage)} = 'taken'"))  # noqa: S608


@attack(1)
def text_delete(stage: Stage) -> Any:
    stage.session.execute(
        text(f"DELETE FROM {_name(stage)} WHERE {_secret(stage)} = :found"),  # noqa: S608
        {"found": stage.subject.theirs[stage.subject.secret]},
    )


@attack(1)
def text_columns(stage: Stage) -> Any:
    secret = stage.subject.secret
    query = text(f"SELECT {_secret(stage)} FROM {_name(stage)}").columns(column(secret.name))  # noqa: S608
    return stage.session.execute(query).all()


@attack(1)
def text_columns_as_subquery(stage: Stage) -> Any:
    secret = stage.subject.secret
    inner = text(f"SELECT {_secret(stage)} FROM {_name(stage)}").columns(column(secret.name)).subquery()  # noqa: S608
    return stage.session.execute(select(inner)).all()


@attack(1)
def from_statement(stage: Stage) -> Any:
    if len(stage.subject.mapper.tables) > 1:
        raise NotApplicableError("it has no one table to read")
    query = select(stage.model).from_statement(text(f"SELECT * FROM {_name(stage)}"))  # noqa: S608
    return stage.session.scalars(query).all()


@attack(1)
def exec_driver_sql(stage: Stage) -> Any:
    return stage.session.connection().exec_driver_sql(f"SELECT * FROM {_name(stage)}").all()  # noqa: S608


@attack(1)
def text_as_from(stage: Stage) -> Any:
    return stage.session.execute(select(literal_column(_secret(stage))).select_from(text(_name(stage)))).all()


@attack(1)
def literal_column_with_subquery(stage: Stage) -> Any:
    theirs = _literal(stage.subject.theirs[stage.subject.secret])
    found = f"(SELECT max({_secret(stage)}) FROM {_name(stage)} WHERE {_secret(stage)} = {theirs})"  # noqa: S608
    return stage.session.execute(select(literal_column(found))).all()


@attack(1)
def text_condition_with_or(stage: Stage) -> Any:
    return stage.session.scalars(select(stage.model).where(text("1 = 1 OR 1 = 1"))).all()


@attack(1)
def text_condition_that_closes_the_bracket(stage: Stage) -> Any:
    return stage.session.scalars(select(stage.model).where(text("1 = 1) OR (1 = 1"))).all()


@attack(1)
def text_condition_that_comments_the_rest_out(stage: Stage) -> Any:
    return stage.session.execute(select(stage.subject.secret).where(text("1 = 1 -- "))).all()


@attack(1)
def literal_column_condition(stage: Stage) -> Any:
    always: Any = literal_column("1 = 1 OR 1")
    return stage.session.execute(select(stage.subject.secret).where(always == 1)).all()


@attack(1)
def text_order_that_tells(stage: Stage) -> Any:
    secret = stage.subject.secret
    inner = f"(SELECT {_secret(stage)} FROM {_name(stage)} WHERE {_secret(stage)} = "  # noqa: S608
    theirs = _literal(stage.subject.theirs[secret])
    # Whether the foreign row exists decides about the order.
    query = select(secret).order_by(text(f"1 / (CASE WHEN EXISTS {inner}{theirs}) THEN 1 ELSE 0 END)"))
    rows = stage.session.execute(query).all()
    return stage.exists(rows) if stage.dialect == "postgresql" else []


@attack(1)
def prefix_with_text(stage: Stage) -> Any:
    query = select(stage.subject.secret).prefix_with(
        f"{_secret(stage)} AS stolen FROM {_name(stage)} UNION ALL SELECT"
    )
    return stage.session.execute(query).all()


@attack(1)
def suffix_with_text(stage: Stage) -> Any:
    query = select(stage.subject.secret).suffix_with(f"UNION ALL SELECT {_secret(stage)} FROM {_name(stage)}")  # noqa: S608
    return stage.session.execute(query).all()


@attack(1)
def statement_hint_with_text(stage: Stage) -> Any:
    query = select(stage.subject.secret).with_statement_hint(
        f"UNION ALL SELECT {_secret(stage)} FROM {_name(stage)}"  # noqa: S608
    )
    return stage.session.execute(query).all()


@attack(1)
def custom_operator(stage: Stage) -> Any:
    secret = stage.subject.secret
    return stage.session.execute(select(secret).where(secret.op("IS NOT NULL OR 1 =")(1))).all()


@attack(1)
def lightweight_table(stage: Stage) -> Any:
    secret = stage.subject.secret
    return stage.session.execute(select(table(stage.table.name, column(secret.name)).c[secret.name])).all()


@attack(1)
def query_to_xml(stage: Stage) -> Any:
    stage.only_on("postgresql")
    query = f"SELECT {_secret(stage)} FROM {_name(stage)}"  # noqa: S608
    return stage.session.execute(select(func.query_to_xml(query, true(), false(), "").cast(Text))).all()


@attack(1)
def table_to_xml(stage: Stage) -> Any:
    stage.only_on("postgresql")
    name: Any = literal_column(f"'{_name(stage)}'::regclass")
    return stage.session.execute(select(func.table_to_xml(name, true(), false(), "").cast(Text))).all()


@attack(1)
def do_block(stage: Stage) -> Any:
    stage.only_on("postgresql")
    stage.session.execute(text(f"DO $$ BEGIN UPDATE {_name(stage)} SET {_secret(stage)} = 'taken'; END $$"))  # noqa: S608


@attack(1)
def copy_to(stage: Stage) -> Iterator[Any]:
    """The text is read as the server would send it to the client."""
    stage.only_on("postgresql")
    if stage.session.get_bind().dialect.driver != "psycopg":
        raise NotApplicableError("its driver reads no COPY through a statement")
    stage.session.execute(text(f"CREATE TEMP TABLE attack_copy ON COMMIT DROP AS TABLE {_name(stage)}"))
    yield from stage.session.execute(text("SELECT * FROM attack_copy")).all()


@attack(37)
def failed_set_is_swallowed(stage: Stage) -> Iterator[Any]:
    stage.only_on("postgresql")
    for statement in ("SET LOCAL app.tenant_id TO", "RESET app.tenant_id", "SET LOCAL row_security = off"):
        try:
            with stage.session.begin_nested():
                stage.session.execute(text(statement))
        except (DatabaseError, DBAPIError):
            pass
        yield from stage.session.scalars(select(stage.model)).all()


def _injected(stage: Stage, statement: str) -> Iterator[Any]:
    stage.only_on("postgresql")
    stage.session.execute(text(statement), {"tenant": stage.subject.other} if ":tenant" in statement else {})
    yield from stage.session.execute(text(f"SELECT * FROM {_name(stage)}")).all()  # noqa: S608


@attack(53)
def injected_set_config(stage: Stage) -> Any:
    return _injected(stage, "SELECT set_config('app.tenant_id', :tenant, true)")


@attack(53)
def injected_set_config_as_function(stage: Stage) -> Iterator[Any]:
    stage.only_on("postgresql")
    stage.session.execute(select(func.set_config("app.tenant_id", stage.subject.other, True)))  # noqa: FBT003
    yield from stage.session.execute(text(f"SELECT * FROM {_name(stage)}")).all()  # noqa: S608


@attack(53)
def injected_set_config_in_pg_catalog(stage: Stage) -> Iterator[Any]:
    stage.only_on("postgresql")
    stage.session.execute(select(func.pg_catalog.set_config("app.tenant_id", stage.subject.other, False)))  # noqa: FBT003
    yield from stage.session.execute(text(f"SELECT * FROM {_name(stage)}")).all()  # noqa: S608


@attack(53)
def injected_set(stage: Stage) -> Any:
    return _injected(stage, f"SET LOCAL app.tenant_id = {_literal(stage.subject.other)}")


@attack(53)
def injected_quoted_setting(stage: Stage) -> Any:
    return _injected(stage, f'SET "app.tenant_id" = {_literal(stage.subject.other)}')


@attack(53)
def injected_update_of_pg_settings(stage: Stage) -> Any:
    return _injected(
        stage,
        f"UPDATE pg_settings SET setting = {_literal(stage.subject.other)} WHERE name = 'app.tenant_id'",  # noqa: S608
    )


@attack(53)
def injected_unicode_name(stage: Stage) -> Any:
    return _injected(stage, "SELECT U&\"set\\005fconfig\"('app.tenant_id', :tenant, true)")


@attack(53)
def injected_reset_role(stage: Stage) -> Any:
    return _injected(stage, "RESET ROLE")


@attack(48)
def truncate(stage: Stage) -> None:
    stage.only_on("postgresql")
    stage.session.execute(text(f"TRUNCATE {_name(stage)} CASCADE"))


@attack(48)
def lock_table(stage: Stage) -> Any:
    """Nobody else's rows are seen, and nobody else sees their own any more."""
    stage.only_on("postgresql")
    stage.session.execute(text(f"LOCK TABLE {_name(stage)} IN ACCESS EXCLUSIVE MODE"))
    return [Leak("locked a table that all tenants use")]


@attack(54)
def listen(stage: Stage) -> Any:
    """Channels have no tenants: whoever listens hears everybody's notifications."""
    stage.only_on("postgresql")
    stage.session.execute(text("LISTEN attack_channel"))
    return [Leak("heard what other tenants are notified of")]


@attack(54)
def notify(stage: Stage) -> Any:
    stage.only_on("postgresql")
    stage.session.execute(text("NOTIFY attack_channel, 'from somebody else'"))
    return [Leak("notified other tenants")]
