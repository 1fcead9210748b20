"""References and uniqueness that leave the tenant out reach, or tell of, other tenants' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dotmac.database.tenancy._policies import table_target
from dotmac.database.tenancy._session_context import quoted_identifier
from dotmac.database.tenancy.doctor._finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dotmac.database.tenancy.doctor._facts import DatabaseFacts

_ACTIONS: Final = {"c": " CASCADE", "n": " SET NULL", "d": " SET DEFAULT", "r": " RESTRICT", "a": ""}


def check_foreign_keys(facts: DatabaseFacts) -> Iterator[Finding]:
    """References between tenants' tables."""
    column = facts.server["tenant_column"]
    for key in facts.foreign_keys:
        place = table_target(key["table"], key["schema"])
        name = quoted_identifier(key["name"])
        if key["schema"] != key["target_schema"] and facts.is_tenants(key["target_schema"]):
            yield Finding(
                "foreign-key-across-schemas",
                Severity.ERROR,
                f"{place} constraint {name}",
                f"It refers into the tenant's schema {key['target_schema']}: rows of one tenant depend on another's.",
                (f"ALTER TABLE {place} DROP CONSTRAINT {name}",),
            )
        elif key["joins_tenants"] and not key["carries_tenant"] and not facts.is_tenants(key["schema"]):
            reaches = key["on_delete"] in "cnd"
            yield Finding(
                "foreign-key-without-tenant",
                Severity.ERROR if reaches else Severity.WARNING,
                f"{place} constraint {name}",
                "A row may refer to another tenant's row"
                + (
                    ", and deleting that one changes this tenant's rows."
                    if reaches
                    else ", which thereby is known to exist."
                ),
                _with_tenant(key, column, place, name),
            )


def _with_tenant(key: Mapping[str, Any], column: str, place: str, name: str) -> tuple[str, ...]:
    target = table_target(key["target"], key["target_schema"])
    ours, theirs = _columns([column, *key["columns"]]), _columns([column, *key["target_columns"]])
    deletes = _ACTIONS[key["on_delete"]]
    if key["on_delete"] in "nd":
        deletes += f" ({_columns(key['columns'])})"  # never the tenant
    actions = (f" ON DELETE{deletes}" if deletes else "") + (
        f" ON UPDATE{_ACTIONS[key['on_update']]}" if _ACTIONS[key["on_update"]] else ""
    )
    return (
        f"ALTER TABLE {target} ADD UNIQUE ({theirs})",
        f"ALTER TABLE {place} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} FOREIGN KEY ({ours}) REFERENCES {target} ({theirs}){actions}",
    )


def check_uniques(facts: DatabaseFacts) -> Iterator[Finding]:
    """Uniqueness across tenants tells one tenant what another has. Random UUIDs tell nothing."""
    for unique in facts.uniques:
        if unique["is_random"] or facts.is_tenants(unique["schema"]):
            continue
        place = table_target(unique["table"], unique["schema"])
        name = quoted_identifier(unique["name"])
        after = " Mend the references to it first." if unique["is_referred_to"] else ""
        yield Finding(
            "unique-without-tenant",
            Severity.INFO if unique["is_primary"] else Severity.WARNING,
            f"{place} index {name}",
            f"It holds across tenants: a refused row tells that another tenant has that value.{after}",
            _unique_with_tenant(unique, place, name),
        )


def _unique_with_tenant(unique: Mapping[str, Any], place: str, name: str) -> tuple[str, ...]:
    tenant = quoted_identifier(unique["tenant_column"])
    if unique["is_constraint"]:
        kind = "PRIMARY KEY" if unique["is_primary"] else "UNIQUE"
        columns = _columns([unique["tenant_column"], *unique["columns"]])
        return (f"ALTER TABLE {place} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} ({columns})",)
    head, using, rest = unique["definition"].partition(" USING ")
    method, _, expressions = rest.partition("(")
    return (
        f"DROP INDEX {table_target(unique['name'], unique['schema'])}",
        f"{head}{using}{method}({tenant}, {expressions}",
    )


def _columns(names: Sequence[str]) -> str:
    return ", ".join(map(quoted_identifier, names))
