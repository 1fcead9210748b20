"""Schemas that belong to one tenant each: their names, their tables, and who reaches them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from dotmac.database.tenancy._policies import table_target
from dotmac.database.tenancy._session_context import quoted_identifier
from dotmac.database.tenancy._tables import divided_tables
from dotmac.database.tenancy.doctor._finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import MetaData

    from dotmac.database.tenancy.doctor._facts import DatabaseFacts

_LONGEST: Final = 63
_PLAIN: Final = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED: Final = frozenset({"public", "pg_catalog", "information_schema", "postgres", "template", "admin"})


def check_schemas(facts: DatabaseFacts, metadata: MetaData | None) -> Iterator[Finding]:
    """Everything about schemas."""
    for schema in facts.schemas:
        if schema["is_open"]:
            place = quoted_identifier(schema["name"])
            yield Finding(
                "schema-create-public",
                Severity.WARNING,
                schema["name"],
                "Everybody may create objects in it, and put them in front of others' in a search_path.",
                (f"REVOKE CREATE ON SCHEMA {place} FROM PUBLIC",),
            )
    own = [schema for schema in facts.schemas if facts.is_tenants(schema["name"])]
    yield from _owners([(schema["name"], schema["owner"]) for schema in own])
    yield from _tables(facts, [schema["name"] for schema in own], metadata)
    yield from _reach(facts)
    yield from _enums(facts)
    # Last: the cures of all others name schemas as they are called now.
    yield from _names(facts)


def _names(facts: DatabaseFacts) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for schema in facts.schemas:
        name = schema["name"]
        first = seen.setdefault(name.casefold(), name)
        why = None
        if first != name:
            why = (
                f"Only the case of letters tells it from {first}; tools that fold it reach the wrong tenant."
            )
        elif not _PLAIN.fullmatch(name):
            why = "It wants quoting; where that is forgotten, another schema is meant, or SQL is injected."
        elif len(name.encode()) >= _LONGEST:
            why = f"It has {_LONGEST} bytes, where the server cuts names: two tenants' names may have become one."
        elif (
            facts.is_tenants(name) and name.removeprefix(facts.tenant_schemas.partition("*")[0]) in _RESERVED
        ):
            why = "It is called as a reserved name."
        if why is not None:
            plain = re.sub(r"[^a-z0-9_]+", "_", name.casefold())[: _LONGEST - 12].strip("_") or "schema"
            digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
            renamed = quoted_identifier(f"{plain}_{digest}")
            yield Finding(
                "schema-name",
                Severity.WARNING,
                name,
                why,
                (f"ALTER SCHEMA {quoted_identifier(name)} RENAME TO {renamed}",),
            )


def _owners(own: list[tuple[str, str]]) -> Iterator[Finding]:
    if not own:
        return
    usual, _ = Counter(owner for _, owner in own).most_common(1)[0]
    for name, owner in own:
        if owner != usual:
            yield Finding(
                "schema-owner",
                Severity.WARNING,
                name,
                f"{owner} owns it, and {usual} the other tenants' schemas: it may have been here before the tenant, and "
                f"its owner reaches it still.",
                (f"ALTER SCHEMA {quoted_identifier(name)} OWNER TO {quoted_identifier(usual)}",),
            )


def _tables(facts: DatabaseFacts, own: list[str], metadata: MetaData | None) -> Iterator[Finding]:
    found: dict[str, set[str]] = {name: set() for name in own}
    shared: dict[str, str] = {}
    for row in facts.tables:
        if row["schema"] in found:
            found[row["schema"]].add(row["name"])
        else:
            shared.setdefault(row["name"], row["schema"])
    if metadata is None:
        counts = Counter(name for names in found.values() for name in names)
        wanted = {name for name, count in counts.items() if count * 2 > len(own)}
    else:
        wanted = {table.name for table in divided_tables(metadata) if table.schema is None}
    source = {name: schema for schema, names in reversed(found.items()) for name in names}
    for schema, names in found.items():
        for name in sorted(wanted - names):
            through = shared.get(name)
            place = table_target(name, schema)
            like = source.get(name, through)
            yield Finding(
                "schema-table-missing",
                Severity.WARNING if through is None else Severity.ERROR,
                place,
                "The tenant's schema lacks this table"
                + (
                    f"; with {through} in its search_path, {through}.{name} is used instead."
                    if through
                    else "."
                )
                + " Better than this statement: run the migrations of the schema.",
                ()
                if like is None
                else (f"CREATE TABLE {place} (LIKE {table_target(name, like)} INCLUDING ALL)",),
            )


def _reach(facts: DatabaseFacts) -> Iterator[Finding]:
    for role in facts.roles:
        reached = [name for name in role["reaches"] if facts.is_tenants(name)]
        if len(reached) > 1:
            schemas = ", ".join(map(quoted_identifier, reached))
            yield Finding(
                "schema-one-role",
                Severity.WARNING,
                role["name"],
                f"It reaches {len(reached)} tenants' schemas: with injected SQL, search_path is no wall. A role of its own "
                f"for each schema is: `dotmac-db roles bootstrap --schema-role`.",
                (f"REVOKE USAGE ON SCHEMA {schemas} FROM PUBLIC, {quoted_identifier(role['name'])}",),
            )


def _enums(facts: DatabaseFacts) -> Iterator[Finding]:
    by_name: dict[str, list[int]] = {}
    for position, enum in enumerate(facts.enums):
        if facts.is_tenants(enum["schema"]):
            by_name.setdefault(enum["name"], []).append(position)
    for name, positions in by_name.items():
        if len(positions) > 1:
            enums = [facts.enums[position] for position in positions]
            cures = [sql for enum in enums for sql in enum["cures"]]
            drops = [
                f"DROP TYPE {table_target(name, enum['schema'])}" for enum in enums if not enum["has_default"]
            ]
            yield Finding(
                "schema-enum",
                Severity.INFO,
                name,
                f"{len(positions)} tenants' schemas have an enum type of this name, each with a number of its own: a "
                f"prepared statement of one schema fails in another. Text with a CHECK does not.",
                (*cures, *drops),
            )
