"""The work a guarded connection does: for which session, and what the server has been told about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DontWrapMixin

from dotmac.database.errors import MissingTenantError, TenantError
from dotmac.database.tenancy._binding import PLACEMENT_KEY, context_in
from dotmac.database.tenancy._session_context import begin_sql, late_sql
from dotmac.database.tenancy._values import convert_tenant

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.types import TypeEngine

    from dotmac.database.context import RequestContext
    from dotmac.database.tenancy._placement import Placement

BEGIN_ATTRIBUTE = "dotmac_begin"
"""Attribute of our driver connections: SQL that goes out in the message of the next BEGIN."""

WORK_ATTRIBUTE = "dotmac_work"
"""Attribute of a session's SQLAlchemy connection: its `Work`."""


class Work:
    """One session's work on one connection, for one transaction.

    Attributes:
        info: The session's ``info``, which says what it is bound to.
        is_open: False once a session has given a borrowed connection back.
        verified: Tables whose row-level security the server has confirmed in this transaction.
        found: Names in raw SQL that lead to these, and to no other table.
    """

    __slots__ = ("_nested", "_root", "_told", "_values", "_values_of", "found", "info", "is_open", "verified")

    def __init__(self, info: dict[Any, Any]) -> None:
        self.info = info
        self.is_open = True
        self.verified: set[Table] = set()
        self.found: set[tuple[str | None, str]] = set()
        self._told: tuple[RequestContext, Placement | None] | None = None
        self._root: object = None
        self._nested: object = None
        self._values: dict[TypeEngine[Any], Any] = {}
        self._values_of: RequestContext | None = None

    @property
    def context(self) -> RequestContext:
        """Whom the work is for."""
        return context_in(self.info)

    @property
    def placement(self) -> Placement | None:
        """Where that tenant's rows live; None for shared tables."""
        found: Placement | None = self.info.get(PLACEMENT_KEY)
        return found

    def tenant_for(self, table: Table, column_type: TypeEngine[Any]) -> Any:
        """The bound tenant as a value of ``table``'s tenant column.

        Raises:
            MissingTenantError: None is bound.
        """
        context = context_in(self.info)
        if context is self._values_of:  # asked once per row written
            known = self._values.get(column_type)
            if known is not None:
                return known
        else:
            self._values, self._values_of = {}, context
        tenant = context.tenant_id
        if tenant is None:
            raise in_statement(MissingTenantError(name_of(table)))
        value = self._values[column_type] = convert_tenant(column_type, tenant, name_of(table))
        return value

    def tell(self, connection: Connection) -> None:
        """Have the server know whom the work is for: with BEGIN where the driver connection is ours and has not begun."""
        if connection.dialect.name != "postgresql":
            return
        context, placement = self.context, self.placement
        if placement is not None and placement.schema is not None and _commits_each(connection):
            raise TenantError(
                f"Tenant {placement.tenant_id!r} has a schema of its own, which only a transaction can be bound to; this "
                f"connection commits each statement (AUTOCOMMIT). Use a session with transactions."
            )
        driver: Any = connection.connection.driver_connection
        if not hasattr(driver, BEGIN_ATTRIBUTE) or _has_begun(driver):
            return  # told before the first statement
        setattr(driver, BEGIN_ATTRIBUTE, begin_sql(context, placement) or None)
        self._told = (context, placement)
        self._root, self._nested = connection.get_transaction(), None

    def take_over(self, before: Work) -> None:
        """What ``before`` has told the server still stands, and has to be taken back if it differs."""
        self._told, self._root, self._nested = before._told, None, None

    def tell_if_changed(self, connection: Connection, cursor_of: Any) -> None:
        """Tell the server in a message of its own, where it does not know yet, or a rollback made it forget."""
        told = self._told
        context, placement = context_in(self.info), self.info.get(PLACEMENT_KEY)
        if (
            told is not None
            and told[0] is context
            and told[1] is placement
            and self._root is connection._transaction  # noqa: SLF001 - get_transaction() without the call
            and (self._nested is None or self._nested is connection.get_nested_transaction())
        ):
            return
        self.verified.clear()
        self.found.clear()
        if connection.dialect.name == "postgresql":
            changed = late_sql(context, placement, told)
            if changed is not None:
                cursor = cursor_of.cursor()
                try:
                    cursor.execute(changed)
                finally:
                    cursor.close()
        self._told = (context, placement)
        self._root, self._nested = connection.get_transaction(), connection.get_nested_transaction()


def _commits_each(connection: Connection) -> bool:
    dialect: Any = connection.dialect
    level = connection.get_execution_options().get("isolation_level") or getattr(
        dialect, "_on_connect_isolation_level", None
    )
    return str(level).upper() == "AUTOCOMMIT"


def _has_begun(driver: Any) -> bool:
    if (libpq := getattr(driver, "pgconn", None)) is not None:
        return bool(libpq.transaction_status != 0)
    return bool(driver.is_in_transaction())


_unwrapped: dict[type[TenantError], Any] = {}


def in_statement(error: TenantError) -> TenantError:
    """``error``, so that SQLAlchemy raises it as it is and not inside a StatementError."""
    kind = type(error)
    known = _unwrapped.get(kind)
    if known is None:
        known = _unwrapped[kind] = type(
            kind.__name__, (kind, DontWrapMixin), {"__module__": kind.__module__, "__doc__": kind.__doc__}
        )
    error.__class__ = known
    return error


def name_of(table: Table) -> str:
    """The name of the model, if there is one, else of the table: for messages."""
    return str(table.info.get("dotmac_model") or table.name)
