"""Does row-level security really bind the current user on these tables? One cheap query, and the judgement of its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy._rules import PERMISSIVE_POLICY, RESTRICTIVE_POLICY, TenantRule, rule_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from sqlalchemy import Connection, Table

_FOUND: Final = """
    SELECT c.oid
    FROM unnest(CASE WHEN named.schema IS NULL THEN pg_catalog.current_schemas(true)
                     ELSE ARRAY[named.schema]::name[] END) WITH ORDINALITY AS path(name, rank)
    JOIN pg_catalog.pg_namespace n ON n.nspname = path.name
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = named.name
    ORDER BY path.rank LIMIT 1
"""
"""What the server finds by the schema and name of ``named``: along search_path where it has no schema."""

VERIFY_SQL: Final = f"""
WITH RECURSIVE wanted AS (
    SELECT named.position, ({_FOUND}) AS relation
    FROM jsonb_to_recordset(CAST(:tables AS jsonb)) AS named(position integer, schema text, name text)
), tree AS (
    SELECT position, relation FROM wanted
    UNION
    SELECT t.position, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relation
)
SELECT t.position, n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity,
       pg_catalog.row_security_active(c.oid), p.polname, p.polpermissive, p.polcmd = '*' AND 0 = ANY (p.polroles),
       pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
FROM tree t
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
"""  # noqa: S608 - all of it stands here
"""One row for each policy of each table and of all its partitions; wants `verify_parameters`.

Names are looked up as the server would in the session's next statement: a temporary table in front of a table is found
instead of it. Takes no lock and reads no user's table.
"""

OTHERS_SQL: Final = f"""
WITH mentioned AS (
    SELECT * FROM unnest(CAST(:schemas AS text[]), CAST(:names AS text[])) AS m(schema, name)
), home AS (
    SELECT c.oid FROM unnest(CAST(:home_schemas AS text[]), CAST(:home_names AS text[])) AS named(schema, name),
    LATERAL ({_FOUND}) AS c
)
SELECT found.nspname, found.relname
FROM mentioned m, LATERAL (
    SELECT n.nspname, c.relname, c.oid
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS path(name, rank) ON path.name = n.nspname
    WHERE lower(c.relname) = m.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND CASE WHEN m.schema IS NULL THEN path.rank IS NOT NULL ELSE lower(n.nspname) = m.schema END
    ORDER BY CASE WHEN m.schema IS NULL THEN path.rank END LIMIT CASE WHEN m.schema IS NULL THEN 1 END) AS found
WHERE found.oid NOT IN (SELECT oid FROM home)
"""  # noqa: S608 - likewise
"""Tables that lie under one of the names mentioned but are not those that models have; an alias is no schema.

Names are compared in lower case: what is quoted is not told apart here.
"""


def verify_parameters(tables: Sequence[Table]) -> dict[str, str]:
    """The parameters of `VERIFY_SQL` for ``tables``."""
    wanted = [
        {"position": position, "schema": table.schema, "name": table.name}
        for position, table in enumerate(tables)
    ]
    return {"tables": json.dumps(wanted)}


def verified(tables: Sequence[Table], rows: Iterable[Sequence[Any]]) -> frozenset[Table]:
    """Those of ``tables`` on which the server itself keeps the current user within the bound tenant.

    That is: the table, and every partition of it, has row-level security in force for this user (who is no superuser,
    does not bypass it, and owns the table only under FORCE) and a restrictive policy for all commands and roles whose
    predicate is exactly the one we generate. Tables that do not exist, or belong to no tenant, are not among them.

    Args:
        tables: As given to `verify_parameters`, in the same order.
        rows: What `VERIFY_SQL` returned.
    """
    return _where(
        tables,
        rows,
        lambda relation: relation.is_active and any(not p.permissive for p in relation.exact_policies),
    )


def secured(tables: Sequence[Table], rows: Iterable[Sequence[Any]]) -> frozenset[Table]:
    """Those of ``tables`` that are as `row_level_security_sql` makes them, their partitions included, whoever asks."""
    wanted = {(PERMISSIVE_POLICY, True), (RESTRICTIVE_POLICY, False)}
    return _where(
        tables,
        rows,
        lambda relation: (
            relation.is_enabled
            and relation.is_forced
            and wanted <= {(policy.name, policy.permissive) for policy in relation.exact_policies}
        ),
    )


def bound_by_the_server(connection: Connection, tables: Collection[Table]) -> frozenset[Table]:
    """Those of ``tables`` that are `verified` on ``connection``, for its current user; none off PostgreSQL. One query."""
    if connection.dialect.name != "postgresql" or not tables:
        return frozenset()
    asked = list(tables)
    return verified(asked, connection.execute(text(VERIFY_SQL), verify_parameters(asked)).all())


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    permissive: bool


@dataclass(slots=True)
class _Relation:
    """A table or partition as the rows tell of it; policies only those for all commands and roles with our predicate."""

    is_enabled: bool
    is_forced: bool
    is_active: bool
    exact_policies: set[_Policy] = field(default_factory=set)


def _where(
    tables: Sequence[Table], rows: Iterable[Sequence[Any]], holds: Callable[[_Relation], bool]
) -> frozenset[Table]:
    rules = [_rule_or_none(table) for table in tables]
    found: list[dict[tuple[str, str], _Relation]] = [{} for _ in tables]
    for position, schema, name, enabled, forced, active, policy, permissive, is_for_all, using, check in rows:
        rule = rules[position]
        relation = found[position].setdefault((schema, name), _Relation(enabled, forced, active))
        if rule is None or not is_for_all or not rule.matches(name, schema, using):
            continue
        # Without a WITH CHECK of its own a policy checks new rows by its USING.
        if check is None or rule.matches(name, schema, check):
            relation.exact_policies.add(_Policy(policy, permissive))
    return frozenset(
        table
        for table, relations in zip(tables, found, strict=True)
        if relations and all(map(holds, relations.values()))
    )


def _rule_or_none(table: Table) -> TenantRule | None:
    try:
        return rule_of(table)
    except ConfigurationError:
        return None
