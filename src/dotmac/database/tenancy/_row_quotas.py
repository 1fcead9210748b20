"""How many rows a tenant may have in a table, counted by the server as they come and go.

A trigger for each statement adds to, or takes from, a counter in the same transaction, whichever way the rows come: ORM,
Core, COPY or psql. The count is exact. Its price: while a transaction that inserted is open, others of the same tenant
wait to insert into the same table. Only tables that have a quota have the trigger.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.dialects.postgresql.base import PGDialect

from dotmac.database.errors import QuotaExceededError, ValidationError
from dotmac.database.tenancy._placement import IsolationMode
from dotmac.database.tenancy._script import sqlstate_of
from dotmac.database.tenancy._session_context import TENANT_SETTING, quoted_identifier, quoted_literal
from dotmac.database.tenancy._tables import TENANT_COLUMN, tenancy_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from dotmac.database.tenancy._directory_options import DirectoryOptions
    from dotmac.database.tenancy._quotas import Quotas
    from dotmac.database.tenancy._tenant import Tenant

ROWS_EXCEEDED = "TQ001"
"""The SQLSTATE the trigger raises; classes from I to Z are the implementation's own."""

_FUNCTION_SQL = """
CREATE OR REPLACE FUNCTION {admin}.count_tenant_rows() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    part record;
    used bigint;
    allowed bigint;
BEGIN
    FOR part IN EXECUTE format(
        'SELECT %s AS tenant, count(*) AS rows FROM changed GROUP BY 1 ORDER BY 1',
        CASE WHEN TG_ARGV[0] = '' THEN quote_literal(TG_ARGV[1]) || '::text' ELSE quote_ident(TG_ARGV[0]) || '::text' END)
    LOOP
        UPDATE {admin}.tenant_rows
        SET row_count = row_count + CASE TG_OP WHEN 'DELETE' THEN -part.rows ELSE part.rows END
        WHERE tenant_id = part.tenant AND table_name = TG_TABLE_NAME
        RETURNING row_count, row_limit INTO used, allowed;
        IF FOUND AND TG_OP = 'INSERT' AND used > allowed THEN
            RAISE EXCEPTION 'the quota of % rows of % is used up', allowed, TG_TABLE_NAME
            USING ERRCODE = '{state}', DETAIL = jsonb_build_object(
                'tenant', part.tenant, 'table', TG_TABLE_NAME, 'limit', allowed)::text;
        END IF;
    END LOOP;
    RETURN NULL;
END
$function$
"""


def install_counters(connection: Connection, options: DirectoryOptions) -> None:
    """The counters and what counts; nothing on other databases than PostgreSQL."""
    if connection.dialect.name != "postgresql":
        return
    admin = quoted_identifier(options.admin_schema)
    connection.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {admin}.tenant_rows (tenant_id varchar(255) NOT NULL, table_name varchar(63) NOT NULL, "
        f"row_limit bigint NOT NULL, row_count bigint NOT NULL, PRIMARY KEY (tenant_id, table_name))"
    )
    # The doctor knows it by this, and looks whether it is the owner's alone.
    connection.exec_driver_sql(f"COMMENT ON TABLE {admin}.tenant_rows IS 'dotmac: rows counted for quotas'")
    script = _FUNCTION_SQL.format(admin=admin, state=ROWS_EXCEEDED)
    connection.exec_driver_sql(script, execution_options={"no_parameters": True})
    # It runs with its owner's rights: only triggers may call it.
    connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {admin}.count_tenant_rows() FROM PUBLIC")


def require_countable(mode: IsolationMode, quotas: Quotas) -> None:
    """Refuse quotas of rows where they cannot be kept.

    Raises:
        ValidationError: The tenant's tables are not on the directory's database.
    """
    if quotas.rows and mode is IsolationMode.DATABASE:
        raise ValidationError(
            "Rows are counted on the directory's own database; a tenant with a database of its own has no quota of rows.",
            field="quotas",
        )


def limit_rows(connection: Connection, tenant: Tenant, options: DirectoryOptions) -> None:
    """Bring triggers and counters in line with the tenant's quotas, counting what is there.

    Raises:
        ValidationError: A table has no tenant column, or the quota cannot be kept on this database.
    """
    rows = tenant.quotas.rows
    require_countable(tenant.mode, tenant.quotas)
    if rows and (connection.dialect.name != "postgresql" or tenant.connection is not None):
        raise ValidationError(
            "Quotas of rows are kept by PostgreSQL, on the directory's own database.", field="quotas"
        )
    forget_rows(connection, tenant, options)
    for name in sorted(rows):  # in one order, for two that do this at once
        _limit_table(connection, tenant, name, rows[name], options)


def forget_rows(connection: Connection, tenant: Tenant, options: DirectoryOptions) -> None:
    """Count the tenant's rows no longer."""
    if connection.dialect.name == "postgresql":
        counters = f"{quoted_identifier(options.admin_schema)}.tenant_rows"
        connection.execute(text(f"DELETE FROM {counters} WHERE tenant_id = :id"), {"id": tenant.id})  # noqa: S608 - quoted


def _limit_table(
    connection: Connection, tenant: Tenant, name: str, limit: int, options: DirectoryOptions
) -> None:
    admin = quoted_identifier(options.admin_schema)
    column = "" if tenant.mode is IsolationMode.SCHEMA else _tenant_column(name, options)
    target = quoted_identifier(name)
    if tenant.schema is not None:
        target = f"{quoted_identifier(tenant.schema)}.{target}"
    # Nobody writes between the count and the trigger.
    connection.exec_driver_sql(f"LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")
    arguments = f"{quoted_literal(column)}, {quoted_literal(tenant.id if not column else '')}"
    for operation, rows in (("INSERT", "NEW"), ("DELETE", "OLD")):
        connection.exec_driver_sql(
            f"CREATE OR REPLACE TRIGGER dotmac_count_{operation.lower()} AFTER {operation} ON {target} "
            f"REFERENCING {rows} TABLE AS changed FOR EACH STATEMENT "
            f"EXECUTE FUNCTION {admin}.count_tenant_rows({arguments})"
        )
    counted = f"SELECT count(*) FROM {target}"  # noqa: S608 - quoted
    parameters: dict[str, Any] = {"id": tenant.id, "name": name, "limit": limit}
    if column:
        connection.execute(
            text("SELECT set_config(:setting, :id, true)"), {"setting": TENANT_SETTING, "id": tenant.id}
        )
        parameters["tenant"] = tenant.id
        counted += f" WHERE {quoted_identifier(column)}::text = :tenant"
    connection.execute(
        text(f"INSERT INTO {admin}.tenant_rows VALUES (:id, :name, :limit, ({counted}))"),  # noqa: S608 - quoted
        parameters,
    )


def _tenant_column(name: str, options: DirectoryOptions) -> str:
    table = None if options.metadata is None else options.metadata.tables.get(name)
    if table is None:
        return TENANT_COLUMN
    column = tenancy_of(table).column
    if column is None:
        raise ValidationError(
            f"The table {name} has no tenant column of its own, so its rows cannot be counted by tenant.",
            field="quotas",
        )
    return column.name


def raise_quota_errors(engine: Engine) -> None:
    """Let statements on ``engine`` that the trigger refuses fail with `QuotaExceededError`."""
    if isinstance(engine.dialect, PGDialect):
        event.listen(engine, "handle_error", _translated, retval=True)


def _translated(context: Any) -> BaseException | None:
    return quota_error(context.original_exception)


def quota_error(error: BaseException) -> QuotaExceededError | None:
    """What a driver's ``error`` is here, if the trigger raised it."""
    if sqlstate_of(error) != ROWS_EXCEEDED:
        return None
    detail = _detail(error)
    return QuotaExceededError(
        tenant=detail["tenant"],
        quota="rows",
        limit=detail["limit"],
        table=detail["table"],
        hint="Delete rows of it, or raise the quota.",
    )


def _detail(error: Any) -> dict[str, Any]:
    """The DETAIL of PostgreSQL's message, as asyncpg (below SQLAlchemy's wrapping) or psycopg gives it."""
    below = error.__cause__ or error
    found = getattr(below, "detail", None) or getattr(getattr(error, "diag", None), "message_detail", None)
    detail: dict[str, Any] = json.loads(found) if found else {"tenant": "?", "limit": 0, "table": None}
    return detail
