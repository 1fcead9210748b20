"""Roles, and what runs with the rights of its owner: views, functions, sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dotmac.database.tenancy._policies import table_target
from dotmac.database.tenancy._session_context import quoted_identifier
from dotmac.database.tenancy.doctor._finding import Finding, Severity
from dotmac.database.tenancy.doctor._row_security import grantees

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dotmac.database.tenancy.doctor._facts import DatabaseFacts

# CVE-2025-8713: statistics of a column are shown to whoever may not see its rows. First releases without it.
_STATISTICS_FIXED: Final = {15: 150014, 16: 160010, 17: 170006}
_FIRST_WHOLE_MAJOR: Final = 18


def check_server(facts: DatabaseFacts) -> Iterator[Finding]:
    """The server's version."""
    version = facts.server["version"]
    major = version // 10000
    if major < _FIRST_WHOLE_MAJOR and version < _STATISTICS_FIXED.get(major, version + 1):
        fixed = _STATISTICS_FIXED.get(major)
        yield Finding(
            "planner-statistics",
            Severity.WARNING,
            f"PostgreSQL {facts.server['release']}",
            "The planner's statistics tell values of rows that policies hide (CVE-2025-8713). Update the server to "
            + (f"{major}.{fixed % 100} or newer." if fixed else "a version that is maintained."),
        )


def check_roles(facts: DatabaseFacts) -> Iterator[Finding]:
    """What the application logs in as."""
    for role in facts.roles:
        name = quoted_identifier(role["name"])
        if role["is_superuser"]:
            yield Finding(
                "role-superuser",
                Severity.ERROR,
                role["name"],
                "It is a superuser: no policy and no privilege binds it. Let the application log in as another role.",
                (f"ALTER ROLE {name} NOSUPERUSER",),
            )
        if role["bypasses"]:
            yield Finding(
                "role-bypassrls",
                Severity.ERROR,
                role["name"],
                "It bypasses row-level security.",
                (f"ALTER ROLE {name} NOBYPASSRLS",),
            )
        if role["powers"]:
            yield Finding(
                "role-membership",
                Severity.ERROR,
                role["name"],
                f"It is a member of {', '.join(role['powers'])}, and may do what they may: see every tenant, or turn "
                f"policies off.",
                tuple(f"REVOKE {quoted_identifier(power)} FROM {name}" for power in role["powers"]),
            )
        if role["owned"] and not role["is_superuser"]:
            yield _owner(facts, role["name"])


def _owner(facts: DatabaseFacts, role: str) -> Finding:
    owner = quoted_identifier(f"{role}_owner")
    schemas = sorted({row["schema"] for row in facts.tables if row["owner"] == role})
    grants = [
        sql.format(name=quoted_identifier(role), schema=quoted_identifier(schema))
        for schema in schemas
        for sql in (
            "GRANT USAGE ON SCHEMA {schema} TO {name}",
            "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {name}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name}",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}",
        )
    ]
    return Finding(
        "role-owner",
        Severity.WARNING,
        role,
        "It owns tenants' tables: it can turn row-level security off, drop policies and TRUNCATE. `dotmac-db roles "
        "bootstrap` sets up an owner apart from the application.",
        (f"CREATE ROLE {owner} NOLOGIN", f"REASSIGN OWNED BY {quoted_identifier(role)} TO {owner}", *grants),
    )


def check_views(facts: DatabaseFacts) -> Iterator[Finding]:
    """Views read with their owner's rights unless they say otherwise; materialized views hold everybody's rows."""
    for view in facts.views:
        place = table_target(view["name"], view["schema"])
        if view["is_materialized"]:
            if view["readers"]:
                yield Finding(
                    "materialized-view",
                    Severity.ERROR,
                    place,
                    f"It holds rows of tenants' tables, no policy can be put on it, and {', '.join(view['readers'])} may "
                    f"read it.",
                    (f"REVOKE ALL ON {place} FROM {grantees(view['readers'])}",),
                )
        elif not view["is_invoker"]:
            yield Finding(
                "view-of-owner",
                Severity.ERROR if view["is_exempt"] else Severity.WARNING,
                place,
                f"It reads tenants' tables with the rights of its owner {view['owner']}"
                + (
                    ", whom no policy binds."
                    if view["is_exempt"]
                    else "; without FORCE that is every tenant."
                ),
                (f"ALTER VIEW {place} SET (security_invoker = true)",),
            )


def _severity_of(function: Mapping[str, Any]) -> Severity:
    if function.get("is_for_triggers") and function["is_pinned"]:
        return Severity.INFO  # nobody but its owner can call it, or put it on a table
    return Severity.ERROR if function["is_exempt"] else Severity.WARNING


def check_functions(facts: DatabaseFacts) -> Iterator[Finding]:
    """Functions that run with another's rights, or find tables by the caller's search_path."""
    for function in facts.functions:
        signature = function["signature"]
        if function["is_definer"]:
            pinned = (
                ""
                if function["is_pinned"]
                else " Its search_path is the caller's, who can put own objects in front."
            )
            yield Finding(
                "function-of-owner",
                _severity_of(function),
                signature,
                f"It runs with the rights of its owner {function['owner']}"
                + (", whom no policy binds." if function["is_exempt"] else ".")
                + pinned
                + (" Only triggers can run it." if function.get("is_for_triggers") else ""),
                (f"ALTER {function['kind']} {signature} SECURITY INVOKER",),
            )
        if not function["is_pinned"]:
            path = f"pg_catalog, {quoted_identifier(function['schema'])}"
            yield Finding(
                "function-search-path",
                Severity.WARNING if function["is_definer"] else Severity.INFO,
                signature,
                "It finds tables and functions by the search_path of its caller.",
                (f"ALTER {function['kind']} {signature} SET search_path = {path}",),
            )


def check_sequences(facts: DatabaseFacts) -> Iterator[Finding]:
    """Sequences know no tenants."""
    for sequence in facts.sequences:
        if not sequence["grantees"] or facts.is_tenants(sequence["schema"]):
            continue
        place = table_target(sequence["name"], sequence["schema"])
        yield Finding(
            "shared-sequence",
            Severity.WARNING,
            place,
            f"All tenants draw from it, and {', '.join(sequence['grantees'])} may read how far it is, or set it. For "
            f"nextval USAGE is enough.",
            (
                f"REVOKE SELECT, UPDATE ON SEQUENCE {place} FROM {grantees(sequence['grantees'])}",
                f"GRANT USAGE ON SEQUENCE {place} TO {grantees(sequence['grantees'])}",
            ),
        )
