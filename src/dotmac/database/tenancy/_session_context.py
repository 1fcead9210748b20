"""What the server is told about the work of one transaction, as SQL that travels in the message of its BEGIN.

Every value lives as long as the transaction (``SET LOCAL``): nothing is left on a pooled connection, and a pooler in
transaction mode cannot mix two tenants up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from dotmac.database.context import RequestContext
    from dotmac.database.tenancy._placement import Placement

TENANT_SETTING = "app.tenant_id"
"""The setting that policies of row-level security compare with; ``''`` or NULL where no tenant is bound."""

_SETTINGS = (
    (TENANT_SETTING, "tenant_id"),
    ("app.user_id", "user_id"),
    ("app.client_ip", "client_ip"),
    ("app.request_id", "request_id"),
)


def begin_sql(context: RequestContext, placement: Placement | None = None) -> str:
    """``SET LOCAL`` statements, each ended with a semicolon; empty where there is nothing to tell.

    Raises:
        ValueError: A value holds NUL, which PostgreSQL cannot take.
    """
    parts = [
        f"SET LOCAL {setting} = {quoted_literal(value)};"
        for setting, attribute in _SETTINGS
        if (value := getattr(context, attribute)) is not None
    ]
    if placement is not None:
        if placement.schema is not None:
            parts.append(
                f"SET LOCAL search_path = {_search_path(placement.schema, placement.shared_schema)};"
            )
        if placement.statement_timeout is not None:
            parts.append(f"SET LOCAL statement_timeout = {_milliseconds(placement.statement_timeout)};")
        if placement.role is not None:
            parts.append(f"SET LOCAL ROLE {quoted_identifier(placement.role)};")
    return " ".join(parts)


_DEFAULT = "(SELECT reset_val FROM pg_catalog.pg_settings WHERE name = {})"


def late_sql(
    context: RequestContext,
    placement: Placement | None,
    before: tuple[RequestContext, Placement | None] | None,
) -> str | None:
    """One SELECT that says the same in the middle of a transaction; None for nothing.

    What was said ``before`` and is no longer so is taken back; settings that were never made are left alone.
    """
    values: dict[str, str] = {
        setting: quoted_literal(getattr(context, attribute) or "") for setting, attribute in _SETTINGS
    }
    if before is not None and before[1] is not None:
        values |= {name: _DEFAULT.format(quoted_literal(name)) for name in _placed(before[1])}
        if before[1].role is not None:
            values["role"] = "'none'"
    if placement is not None:
        values |= {name: quoted_literal(value) for name, value in _placed(placement).items()}
    if before is None and placement is None and all(value == "''" for value in values.values()):
        return None
    # The role last: it may not be allowed to do the rest.
    ordered = sorted(values.items(), key=lambda item: item[0] == "role")
    return "SELECT " + ", ".join(
        f"pg_catalog.set_config({quoted_literal(name)}, {value}, true)" for name, value in ordered
    )


def _placed(placement: Placement) -> dict[str, str]:
    """The settings of a placement."""
    values: dict[str, str] = {}
    if placement.schema is not None:
        values["search_path"] = _search_path(placement.schema, placement.shared_schema)
    if placement.statement_timeout is not None:
        values["statement_timeout"] = str(_milliseconds(placement.statement_timeout))
    if placement.role is not None:
        values["role"] = placement.role
    return values


def _search_path(schema: str, shared_schema: str | None) -> str:
    names = [schema] if shared_schema is None else [schema, shared_schema]
    return ", ".join(map(quoted_identifier, names))


def _milliseconds(limit: timedelta) -> int:
    return max(1, round(limit.total_seconds() * 1000))


def quoted_literal(value: str) -> str:
    """``value`` as an SQL string, whatever ``standard_conforming_strings`` says.

    Raises:
        ValueError: It holds NUL.
    """
    if "\0" in value:
        raise ValueError("A value for the server must not hold NUL.")
    doubled = value.replace("'", "''")
    if "\\" in value:
        return " E'" + doubled.replace("\\", "\\\\") + "'"
    return f"'{doubled}'"


def quoted_identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier.

    Raises:
        ValueError: It is empty or holds NUL.
    """
    if not name or "\0" in name:
        raise ValueError("A name at the server must not be empty or hold NUL.")
    return '"' + name.replace('"', '""') + '"'
