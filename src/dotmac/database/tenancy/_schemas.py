"""Make a tenant's schema and drop it again: only what the directory made itself, and nothing else with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, exists, false, func, select, text

from dotmac.database.errors import ConfigurationError, SchemaError, ValidationError
from dotmac.database.models import python_type_of
from dotmac.database.tenancy._policies import row_level_security_sql
from dotmac.database.tenancy._provisioning import (
    Access,
    ownership_mark,
    render_tables,
    schema_script,
    tenant_tables,
)
from dotmac.database.tenancy._script import message_of, send_script, sqlstate_of
from dotmac.database.tenancy._session_context import TENANT_SETTING, quoted_identifier
from dotmac.database.tenancy._tables import divided_tables, tenancy_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    from dotmac.database.tenancy._directory_core import NewTenant
    from dotmac.database.tenancy._directory_options import DirectoryOptions
    from dotmac.database.tenancy._tenant import Tenant

_DUPLICATE_SCHEMA = "42P06"
_VERSION_WITH_SET_OPTION = (16, 0)

# Tables of other tenants' names in the shared schema would answer where a tenant's own table is missing.
_SHADOWED_SQL = text(
    "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(:shared)) AND relname = ANY(:names) "
    "AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY relname"
)
_COMMENT_SQL = text(
    "SELECT obj_description(oid, 'pg_namespace') AS mark FROM pg_namespace WHERE nspname = :schema"
)
# What lies elsewhere and would go, or lose a constraint, with the schema.
_DEPENDENTS_SQL = text(
    """
    SELECT DISTINCT c.relnamespace::regnamespace || '.' || quote_ident(c.relname) AS name
    FROM pg_class inner_class
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = inner_class.oid
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class c ON c.oid = COALESCE(k.conrelid, w.ev_class)
    WHERE inner_class.relnamespace = to_regnamespace(quote_ident(:schema))
      AND c.relnamespace <> inner_class.relnamespace
    ORDER BY name
    """
)


@dataclass(frozen=True, slots=True)
class RenderedTables:
    """The statements that make a tenant's tables, the same for every tenant.

    Attributes:
        names: The tables' names.
        statements: What makes them.
    """

    names: tuple[str, ...]
    statements: tuple[str, ...]

    @classmethod
    def of(cls, options: DirectoryOptions) -> RenderedTables:
        """Render what ``options`` give each tenant.

        Raises:
            SchemaError: A table cannot be one per schema.
        """
        if options.metadata is None:
            return cls((), ())
        tables = tenant_tables(options.metadata, options.tables)
        statements = render_tables(options.metadata, tables)
        if options.row_level_security:
            statements += row_level_security_sql(tables)
        return cls(tuple(table.name for table in tables), tuple(statements))


def make_schema(
    connection: Connection,
    new: NewTenant,
    options: DirectoryOptions,
    *,
    body: RenderedTables,
    version: Sequence[str],
) -> None:
    """Make the schema of ``new`` with its tables and rights, as one message in the connection's transaction.

    Raises:
        SchemaError: It exists, or cannot be made.
    """
    assert new.schema is not None  # noqa: S101 - mode SCHEMA
    access = Access(
        application_role=options.application_role,
        role=new.role,
        shared_role=options.shared_role,
        has_set_option=(connection.dialect.server_version_info or (0,)) >= _VERSION_WITH_SET_OPTION,
    )
    _refuse_inheritance(connection, access)
    if options.shared_schema is not None and body.names:
        _refuse_shadows(connection, options.shared_schema, body.names)
    script = schema_script(new.schema, new.id, options.shared_schema, body.statements, version, access)
    _send(connection, script, new.schema, "made")


def drop_schema(connection: Connection, tenant: Tenant) -> None:
    """Drop the schema of ``tenant`` and all that is in it, in the connection's transaction.

    Raises:
        SchemaError: The directory did not make it, or something elsewhere depends on it.
    """
    assert tenant.schema is not None  # noqa: S101 - mode SCHEMA
    mark = connection.execute(_COMMENT_SQL, {"schema": tenant.schema}).one_or_none()
    if mark is None:
        return  # somebody dropped it by hand
    if mark.mark != ownership_mark(tenant.id):
        raise SchemaError(
            f"The schema {tenant.schema} does not carry the mark of this tenant (its comment): somebody replaced it. It is "
            f"not dropped. Remove the tenant alone with keep_data=True.",
            schema=tenant.schema,
        )
    others = list(connection.execute(_DEPENDENTS_SQL, {"schema": tenant.schema}).scalars())
    if others:
        raise SchemaError(
            f"Outside the schema {tenant.schema}, {', '.join(others[:5])} depends on it. Nothing was dropped; drop that, or "
            f"its reference, first.",
            schema=tenant.schema,
        )
    statements = [f"DROP SCHEMA {quoted_identifier(tenant.schema)} CASCADE"]
    if tenant.role is not None:
        statements.append(f"DROP ROLE {quoted_identifier(tenant.role)}")
    _send(connection, statements, tenant.schema, "dropped")


def _send(connection: Connection, script: Sequence[str], schema: str, what: str) -> None:
    try:
        send_script(connection, script)
    except Exception as error:
        state = sqlstate_of(error)
        if state is None:
            raise
        raise SchemaError(
            f"The schema {schema} exists already and the directory did not make it; it is never taken over. Choose another "
            f"with schema=, or, if it is this tenant's, `register` the tenant."
            if state == _DUPLICATE_SCHEMA
            else f"The schema {schema} could not be {what} ({state}: {message_of(error)}). Nothing was changed.",
            schema=schema,
        ) from error


def _refuse_shadows(connection: Connection, shared: str, names: Sequence[str]) -> None:
    found = list(connection.execute(_SHADOWED_SQL, {"shared": shared, "names": list(names)}).scalars())
    if found:
        raise SchemaError(
            f"The shared schema {shared} holds tables that every tenant is to have for itself: {', '.join(found[:5])}. A "
            f"tenant that lacks one would read that one. Drop or rename them, or name another shared_schema.",
            schema=shared,
        )


def _refuse_inheritance(connection: Connection, access: Access) -> None:
    """Before version 16 a membership inherits or not as the member says, for all its memberships."""
    if access.role is None or access.application_role is None or access.has_set_option:
        return
    inherits = connection.execute(
        text("SELECT rolinherit FROM pg_roles WHERE rolname = :role"), {"role": access.application_role}
    ).scalar()
    if inherits:
        raise ConfigurationError(
            f"With a role per tenant, the role {access.application_role} would have the rights of all of them at once. On "
            f"PostgreSQL before 16, say ALTER ROLE {access.application_role} NOINHERIT first."
        )


def delete_rows(connection: Connection, tenant: Tenant, options: DirectoryOptions) -> None:
    """Delete the tenant's rows from the tables that tenants share, those that hang on others first.

    Raises:
        ValidationError: Which tables these are is not known here.
    """
    if options.metadata is None or tenant.connection is not None:
        raise ValidationError(
            f"The rows of {tenant.slug!r} are in shared tables that the directory does not know{_elsewhere(tenant)}. Give it "
            f"metadata=, or remove the tenant alone with keep_data=True and delete its rows yourself.",
            field="keep_data",
        )
    if connection.dialect.name == "postgresql":  # forced row-level security binds the tables' owner too
        connection.execute(select(func.set_config(TENANT_SETTING, tenant.id, True)))  # noqa: FBT003 - SQL has no keywords
    for table in reversed(list(divided_tables(options.metadata))):
        connection.execute(delete(table).where(_belongs(table, tenant.id)))


def _elsewhere(tenant: Tenant) -> str:
    return "" if tenant.connection is None else f" (on the connection {tenant.connection!r})"


def _belongs(table: Table, tenant_id: str) -> ColumnElement[bool]:
    tenancy = tenancy_of(table)
    if tenancy.column is not None:
        kind = python_type_of(tenancy.column.type)
        try:
            value = tenant_id if kind is None or kind is str else kind(tenant_id)
        except (TypeError, ValueError):
            return false()  # no row can have this tenant
        return tenancy.column == value
    owner = tenancy.owner
    assert owner is not None  # noqa: S101 - it is divided
    pairs = [ours == theirs for ours, theirs in owner.pairs]
    return exists(select(1).select_from(owner.table).where(and_(*pairs), _belongs(owner.table, tenant_id)))
