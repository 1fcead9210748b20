"""Tables of tenants, and the policies that should be on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dotmac.database.errors import ConfigurationError
from dotmac.database.tenancy._policies import secure_sql, table_target
from dotmac.database.tenancy._rules import PERMISSIVE_POLICY, TenantRule, rule_of
from dotmac.database.tenancy._session_context import quoted_identifier
from dotmac.database.tenancy.doctor._finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import MetaData, Table

    from dotmac.database.tenancy.doctor._facts import DatabaseFacts

_TEXT: Final = frozenset({"text", "character varying"})


def check_tables(facts: DatabaseFacts, metadata: MetaData | None) -> Iterator[Finding]:
    """Everything about tables whose rows belong to tenants; those in a tenant's own schema are divided by that."""
    policies: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for policy in facts.policies:
        policies.setdefault((policy["schema"], policy["table"]), []).append(policy)
    models = (
        {} if metadata is None else {(table.schema, table.name): table for table in metadata.tables.values()}
    )
    for row in facts.tables:
        if facts.is_tenants(row["schema"]):
            continue
        rule = _rule(row, models)
        if rule is None:
            continue
        place = table_target(row["name"], row["schema"])
        yield from _check_policies(row, rule, place, policies.get((row["schema"], row["name"]), ()), facts)
        yield from _check_column(row, rule, place)
        if row["truncaters"]:
            yield Finding(
                "truncate-granted",
                Severity.ERROR,
                place,
                f"{_list(row['truncaters'])} may TRUNCATE it; no policy is asked, and every tenant's rows are gone.",
                (f"REVOKE TRUNCATE ON {place} FROM {grantees(row['truncaters'])}",),
            )


def _rule(row: Mapping[str, Any], models: Mapping[tuple[str | None, str], Table]) -> TenantRule | None:
    model = models.get((row["schema"], row["root"]), models.get((None, row["root"])))
    if model is not None:
        try:
            return rule_of(model)
        except ConfigurationError:
            return None
    if row["tenant_column"] is None:
        return None
    stored = row["tenant_type"]
    return TenantRule(row["tenant_column"], None if stored in _TEXT else stored)


def _check_policies(
    row: Mapping[str, Any],
    rule: TenantRule,
    place: str,
    policies: Sequence[Mapping[str, Any]],
    facts: DatabaseFacts,
) -> Iterator[Finding]:
    what = (
        f" It is a partition of {row['root']}, and read by its own name it has only its own policies."
        if row["is_partition"]
        else ""
    )
    cure = tuple(secure_sql(row["name"], rule, schema=row["schema"], partitions=row["is_partitioned"]))
    if not row["is_enabled"]:
        if row.get("is_counters"):
            return  # the directory's, and nobody else may read it
        why = "It holds tenants' rows, and row-level security is off: everybody who may read it reads every tenant."
        yield Finding("rls-off", Severity.ERROR, place, why + what, cure)
        return
    if not row["is_forced"]:
        owners = [role["name"] for role in facts.roles if row["owner"] in {role["name"], *role["powers"]}]
        yield Finding(
            "rls-not-forced",
            Severity.ERROR if owners else Severity.WARNING,
            place,
            f"Row-level security is not forced: its owner {row['owner']}, and views and functions of the owner's, see "
            f"every tenant.{what}",
            (f"ALTER TABLE {place} FORCE ROW LEVEL SECURITY",),
        )
    exact = {policy["name"]: policy["is_permissive"] for policy in policies if _is_exact(policy, row, rule)}
    has_boundary = False in exact.values()
    if not has_boundary:
        yield Finding(
            "policy-boundary",
            Severity.ERROR,
            place,
            f"No restrictive policy holds every command within app.tenant_id by the exact predicate.{what}",
            cure,
        )
    elif True not in exact.values():
        yield Finding(
            "policy-rows",
            Severity.INFO,
            place,
            "The policy that opens a tenant's own rows is not as generated.",
            cure,
        )
    for policy in policies:
        if policy["is_permissive"] and policy["name"] not in exact and policy["name"] != PERMISSIVE_POLICY:
            name = quoted_identifier(policy["name"])
            yield Finding(
                "policy-extra",
                Severity.INFO if has_boundary else Severity.ERROR,
                f"{place} policy {name}",
                "Permissive policies are joined by OR: this one opens rows that ours does not"
                + (", within the tenant that the restrictive one holds." if has_boundary else "."),
                (f"DROP POLICY {name} ON {place}",),
            )


def _is_exact(policy: Mapping[str, Any], row: Mapping[str, Any], rule: TenantRule) -> bool:
    def matches(printed: str | None) -> bool:
        return rule.matches(row["name"], row["schema"], printed)

    return bool(
        policy["is_for_all"]
        and matches(policy["using"])
        and (policy["check"] is None or matches(policy["check"]))
    )


def _check_column(row: Mapping[str, Any], rule: TenantRule, place: str) -> Iterator[Finding]:
    if rule.through or row["tenant_column"] is None:
        return
    column = quoted_identifier(row["tenant_column"])
    if not row["is_indexed"]:
        why = f"No index begins with {column}: every statement of every tenant reads the whole table."
        yield Finding("tenant-index", Severity.INFO, place, why, (f"CREATE INDEX ON {place} ({column})",))
    if not row["is_required"] and not row["is_partition"]:
        why = f"{column} may be NULL: such rows belong to nobody, and no tenant can find or delete them."
        yield Finding(
            "tenant-nullable",
            Severity.INFO,
            place,
            why,
            (f"ALTER TABLE {place} ALTER COLUMN {column} SET NOT NULL",),
        )
    if not row["is_deterministic"]:
        secure = secure_sql(row["name"], rule, schema=row["schema"], partitions=row["is_partitioned"])
        dropping = [sql for sql in secure if sql.startswith("DROP POLICY")]
        yield Finding(
            "tenant-collation",
            Severity.WARNING,
            place,
            f"{column} has a collation that takes different ids, such as acme and ACME, for equal.",
            (
                *dropping,
                f'ALTER TABLE {place} ALTER COLUMN {column} TYPE {row["tenant_type"]} COLLATE "C"',
                *secure,
            ),
        )


def grantees(names: Sequence[str]) -> str:
    """Roles for GRANT and REVOKE; PUBLIC is no name."""
    return ", ".join(name if name == "PUBLIC" else quoted_identifier(name) for name in names)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
