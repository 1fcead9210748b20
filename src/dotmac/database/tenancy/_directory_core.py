"""What a directory does, in blocking form; asyncio code runs the same in SQLAlchemy's greenlet.

A change on the directory's own database is one transaction. One that reaches another database cannot be: it is written
down as incomplete first, and what a crash leaves behind is known by that, and cleared away by `drop`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateSchema

from dotmac.database.errors import (
    ConfigurationError,
    TenantExistsError,
    TenantNotFoundError,
    TenantSuspendedError,
    ValidationError,
)
from dotmac.database.models import utc_now, uuid7
from dotmac.database.tenancy._admission import Admission, Admitted
from dotmac.database.tenancy._databases import database_script, drop_database, new_database
from dotmac.database.tenancy._directory_cache import DirectoryCache
from dotmac.database.tenancy._directory_table import select_tenants, tenant_of_row, tenants_table
from dotmac.database.tenancy._names import (
    check_role_name,
    check_schema_name,
    check_slug,
    check_tenant_id,
    schema_name,
)
from dotmac.database.tenancy._placement import IsolationMode
from dotmac.database.tenancy._provisioning import render_version
from dotmac.database.tenancy._quotas import Quotas
from dotmac.database.tenancy._row_quotas import forget_rows, install_counters, limit_rows, require_countable
from dotmac.database.tenancy._schemas import RenderedTables, delete_rows, drop_schema, make_schema
from dotmac.database.tenancy._script import sqlstate_of
from dotmac.database.tenancy._session_context import quoted_identifier
from dotmac.database.tenancy._tenant import TenantStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine, Select, Table

    from dotmac.database.tenancy._directory_cache import Known
    from dotmac.database.tenancy._directory_options import DirectoryOptions
    from dotmac.database.tenancy._placement import Placement
    from dotmac.database.tenancy._tenant import Tenant

_INSTALL_LOCK = 7_236_418_801_215_544_291
_MISSING_TABLE = frozenset({"42P01", "3F000"})
_NO_PRIVILEGE = "42501"
_MAX_CONNECTION_CHARS = 255


@dataclass(frozen=True, slots=True)
class NewTenant:
    """A tenant to be made, checked before any SQL."""

    id: str
    slug: str
    mode: IsolationMode
    name: str | None
    connection: str | None
    schema: str | None
    role: str | None
    quotas: Quotas
    is_owned: bool

    @classmethod
    def checked(
        cls,
        slug: str,
        *,
        mode: IsolationMode | str = IsolationMode.SHARED,
        tenant_id: str | None = None,
        name: str | None = None,
        connection: str | None = None,
        schema: str | None = None,
        role: str | bool | None = None,
        quotas: Quotas | None = None,
        is_owned: bool = True,
    ) -> NewTenant:
        """Check everything and fill in what follows from the slug.

        Raises:
            ValidationError: The slug, id, name or connection cannot be one, or they do not go together.
            SchemaError: The schema or role cannot be called so.
        """
        mode = IsolationMode(mode)
        check_slug(slug)
        new_id = str(uuid7()) if tenant_id is None else str(check_tenant_id(tenant_id))
        if mode is not IsolationMode.SCHEMA and (schema or role):
            raise ValidationError(
                f"A tenant in mode {mode} has no schema or role of its own.", field="schema"
            )
        if mode is IsolationMode.SCHEMA:
            schema = check_schema_name(schema) if schema else schema_name(slug)
        if mode is IsolationMode.DATABASE and connection is None:
            connection = schema_name(slug)
        return cls(
            id=new_id,
            slug=slug,
            mode=mode,
            name=_printable("name", name),
            connection=_printable("connection", connection),
            schema=schema,
            role=check_role_name(role) if isinstance(role, str) else schema if role else None,
            quotas=quotas or Quotas(),
            is_owned=is_owned and mode is not IsolationMode.SHARED,
        )


def _printable(field: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not value.strip() or not value.isprintable() or len(value) > _MAX_CONNECTION_CHARS:
        raise ValidationError(
            f"The {field} of a tenant has 1 to {_MAX_CONNECTION_CHARS} printable characters.", field=field
        )
    return value


class DirectoryCore:
    """What both faces of a directory share: its options, what it remembers, and its operations."""

    def __init__(self, options: DirectoryOptions) -> None:
        self.options = options
        self.cache = DirectoryCache(options.cache_size, options.stale_for)
        self.admission = Admission(options.admission_timeout)

    def install(self, engine: Engine) -> None:
        """Make the directory's table, and the shared schema; nothing happens where they are."""
        table = self._table(engine)
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                # CREATE … IF NOT EXISTS by two at once makes one of them fail.
                connection.execute(select(func.pg_advisory_xact_lock(_INSTALL_LOCK)))
                for schema in (self.options.admin_schema, self.options.shared_schema):
                    if schema is not None:
                        connection.execute(CreateSchema(schema, if_not_exists=True))
            table.create(connection, checkfirst=True)
            install_counters(connection, self.options)
            if engine.dialect.name == "postgresql" and self.options.application_role is not None:
                for statement in self._reader_grants(self.options.application_role):
                    connection.execute(text(statement))

    def _reader_grants(self, role: str) -> list[str]:
        admin, grantee = quoted_identifier(self.options.admin_schema), quoted_identifier(role)
        grants = [
            f"GRANT USAGE ON SCHEMA {admin} TO {grantee}",
            f"GRANT SELECT ON {admin}.tenants TO {grantee}",
        ]
        if self.options.shared_schema is not None:
            grants.append(
                f"GRANT USAGE ON SCHEMA {quoted_identifier(self.options.shared_schema)} TO {grantee}"
            )
        return grants

    def create(self, engine: Engine, new: NewTenant) -> Tenant:
        """Write ``new`` down and make what it needs."""
        if new.mode is IsolationMode.DATABASE and new.is_owned:
            return self._create_with_database(engine, new)
        made = self._maker(engine, new)
        with self._connected(engine) as connection:
            self._insert(connection, new, is_complete=True)
            made(connection)
            tenant = self._required(connection, new.id)
            limit_rows(connection, tenant, self.options)
            return tenant

    def _create_with_database(self, engine: Engine, new: NewTenant) -> Tenant:
        """Three transactions, for CREATE DATABASE can be in none."""
        check_schema_name(new.connection or "")
        require_countable(new.mode, new.quotas)
        script = database_script(engine, self.options, self._version)
        with self._connected(engine) as connection:
            self._insert(connection, new, is_complete=False)
        try:
            with new_database(engine, new, script, self.options.application_role):
                return self.change(engine, new.id, is_complete=True)
        except BaseException:
            with self._connected(engine) as connection:
                self._delete(connection, new.id)
            raise

    def set_quotas(self, engine: Engine, tenant_id: str, quotas: Quotas) -> Tenant:
        """Replace the quotas of one tenant; rows are counted now."""
        table = self._table(engine)
        changed = update(table).where(table.c.id == check_tenant_id(tenant_id))
        try:
            with self._connected(engine) as connection:
                connection.execute(changed.values(quotas=quotas.to_json(), updated_at=utc_now()))
                tenant = self._required(connection, tenant_id)
                limit_rows(connection, tenant, self.options)
                return tenant
        finally:
            self.cache.forget(tenant_id)

    def drop(self, engine: Engine, tenant_id: str, confirm: str, *, keep_data: bool) -> Tenant:
        """Remove a tenant and, unless ``keep_data``, what the directory made for it; the tenant as it was."""
        try:
            with self._connected(engine) as connection:
                tenant = self._required(connection, check_tenant_id(tenant_id), for_update=True)
                if confirm != tenant.slug:
                    raise ValidationError(
                        f"To drop the tenant {tenant_id!r}, confirm it with its slug; {confirm!r} is another. Nothing was "
                        f"dropped.",
                        field="confirm",
                    )
                with_database = tenant.mode is IsolationMode.DATABASE and tenant.is_owned and not keep_data
                if with_database:
                    # From now on nobody is let in.
                    table = self._table(engine)
                    connection.execute(update(table).where(table.c.id == tenant.id).values(is_complete=False))
                else:
                    self._drop_here(connection, tenant, keep_data=keep_data)
            if with_database:
                drop_database(engine, tenant)
                with self._connected(engine) as connection:
                    self._delete(connection, tenant.id)
            return tenant
        finally:
            self.cache.forget(tenant_id)

    def _drop_here(self, connection: Connection, tenant: Tenant, *, keep_data: bool) -> None:
        if not keep_data and tenant.mode is IsolationMode.SHARED:
            delete_rows(connection, tenant, self.options)
        if not keep_data and tenant.mode is IsolationMode.SCHEMA and tenant.is_owned:
            drop_schema(connection, tenant)
        forget_rows(connection, tenant, self.options)
        self._delete(connection, tenant.id)

    def placed(self, placement: Placement) -> Admitted:
        """A place for a session of the tenant; see `Admission`."""
        known = self.cache.latest(placement.tenant_id)
        limit = None if known is None else known.tenant.quotas.connections
        return Admitted(self.admission, placement.tenant_id, limit)

    def _maker(self, engine: Engine, new: NewTenant) -> Callable[[Connection], None]:
        """What makes the tenant's schema; everything that can be refused is refused before any SQL."""
        if new.mode is not IsolationMode.SCHEMA or not new.is_owned:
            return lambda _connection: None
        if engine.dialect.name != "postgresql":
            raise ConfigurationError(
                "A schema for each tenant needs PostgreSQL. Elsewhere use mode shared or database."
            )
        if new.connection is not None:
            raise ValidationError(
                "A schema is made on the directory's own database. Make this one where it is to be, and `register` the tenant "
                "with its connection.",
                field="connection",
            )
        body, version = self._tenant_tables, self._version
        return lambda connection: make_schema(connection, new, self.options, body=body, version=version)

    @cached_property
    def _tenant_tables(self) -> RenderedTables:
        return RenderedTables.of(self.options)

    @cached_property
    def _version(self) -> list[str]:
        return [] if self.options.migrations is None else render_version(self.options.migrations)

    def read(self, engine: Engine, *, tenant_id: str | None = None, slug: str | None = None) -> Known:
        """One tenant, read now and remembered."""
        column, value = (
            ("id", check_tenant_id(tenant_id)) if tenant_id is not None else ("slug", check_slug(slug or ""))
        )
        ticket = self.cache.ticket()
        with self._connected(engine) as connection:
            table = self._table(engine)
            row = connection.execute(select_tenants(table).where(table.c[column] == value)).one_or_none()
        if row is None:
            if tenant_id is not None:
                self.cache.forget(tenant_id)
            raise TenantNotFoundError(value)
        tenant = tenant_of_row(row)
        return self.cache.remember(tenant, tenant.placement(self.options.shared_schema), ticket)

    def list(
        self, engine: Engine, *, status: TenantStatus | None, after: str | None, limit: int | None
    ) -> list[Tenant]:
        """Tenants in order of their slugs."""
        table = self._table(engine)
        statement: Select[Any] = select_tenants(table).order_by(table.c.slug).limit(limit)
        if status is not None:
            statement = statement.where(table.c.status == str(status))
        if after is not None:
            statement = statement.where(table.c.slug > after)
        with self._connected(engine) as connection:
            return [tenant_of_row(row) for row in connection.execute(statement)]

    def change(self, engine: Engine, tenant_id: str, **values: Any) -> Tenant:
        """Set columns of one tenant."""
        table = self._table(engine)
        statement = (
            update(table)
            .where(table.c.id == check_tenant_id(tenant_id))
            .values(**values, updated_at=utc_now())
        )
        try:
            with self._connected(engine) as connection:
                try:
                    changed = connection.execute(statement).rowcount
                except IntegrityError as error:
                    raise _taken(values.get("slug", tenant_id)) from error
                if not changed:
                    raise TenantNotFoundError(tenant_id)
                return self._required(connection, tenant_id)
        finally:
            self.cache.forget(tenant_id)

    def _insert(self, connection: Connection, new: NewTenant, *, is_complete: bool) -> None:
        values = {
            "id": new.id,
            "slug": new.slug,
            "name": new.name,
            "mode": str(new.mode),
            "connection": new.connection,
            "schema": new.schema,
            "role": new.role,
            "quotas": new.quotas.to_json(),
            "is_owned": new.is_owned,
            "is_complete": is_complete,
        }
        try:
            connection.execute(insert(self._table(connection.engine)).values(values))
        except IntegrityError as error:
            raise _taken(new.slug) from error

    def _required(self, connection: Connection, tenant_id: str, *, for_update: bool = False) -> Tenant:
        table = self._table(connection.engine)
        statement = select_tenants(table).where(table.c.id == tenant_id)
        row = connection.execute(statement.with_for_update() if for_update else statement).one_or_none()
        if row is None:
            raise TenantNotFoundError(tenant_id)
        return tenant_of_row(row)

    def _delete(self, connection: Connection, tenant_id: str) -> None:
        table = self._table(connection.engine)
        connection.execute(delete(table).where(table.c.id == tenant_id))

    def _table(self, engine: Engine) -> Table:
        return tenants_table(engine.dialect, self.options.admin_schema)

    @contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        """A transaction on the directory's database."""
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            table = self._table(engine)
            is_missing = sqlstate_of(error) in _MISSING_TABLE or any(
                words in str(error.orig)
                for words in ("no such table", "doesn't exist")  # SQLite, MySQL
            )
            if is_missing and table.name in str(error.orig):
                raise ConfigurationError(
                    f"This database has no directory of tenants (no table {table.fullname}). Run `dotmac-db tenant init`, "
                    f"or call `install()`, once, as a role that may create schemas."
                ) from error
            if sqlstate_of(error) == _NO_PRIVILEGE and any(
                words in str(error.orig)
                for words in (f"table {table.name}", f"schema {self.options.admin_schema}")
            ):
                raise ConfigurationError(
                    f"This role may not use {table.fullname}. Let it read the directory with `dotmac-db tenant "
                    f"--application-role NAME init`; change tenants through an administrator."
                ) from error
            raise


def serving(known: Known) -> Known:
    """``known``, if it may be served.

    Raises:
        TenantSuspendedError: It may not.
    """
    if known.tenant.status is not TenantStatus.ACTIVE:
        raise TenantSuspendedError(known.tenant.id, str(known.tenant.status))
    return known


def _taken(slug: str) -> TenantExistsError:
    return TenantExistsError(
        f"The directory has a tenant with the id, slug or schema of {slug!r} already. A renamed tenant keeps its schema: "
        f"then name another one with schema=. `dotmac-db tenant list` shows every tenant.",
        tenant=slug,
    )
