"""Whose row is it, as SQL: the predicate of a table's policies, and what PostgreSQL makes of it.

PostgreSQL keeps a policy as a parse tree and prints it in a spelling of its own (``pg_get_expr``; the same from
version 15 to 18). A policy in a database is therefore compared with the printed form, which is generated here too.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects.postgresql.base import PGDialect

from dotmac.database.errors import ConfigurationError
from dotmac.database.models import python_type_of
from dotmac.database.tenancy._session_context import TENANT_SETTING, quoted_identifier
from dotmac.database.tenancy._tables import TENANT_COLUMN, tenancy_of

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.types import TypeEngine

PERMISSIVE_POLICY: Final = "dotmac_tenant_rows"
"""Opens a table to the bound tenant's rows."""

RESTRICTIVE_POLICY: Final = "dotmac_tenant_boundary"
"""Keeps every other policy, whoever adds it, within the bound tenant's rows."""

_POSTGRESQL: Final = PGDialect()  # type: ignore[no-untyped-call]

# After a SET LOCAL has ended the setting is '' and not NULL. A cast on the column would keep indexes from being used.
_SETTING_SQL: Final = f"nullif(current_setting('{TENANT_SETTING}', true), '')"
_SETTING_PRINTED: Final = f"NULLIF(current_setting('{TENANT_SETTING}'::text, true), ''::text)"

_BARE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_TYPE_NAME: Final = re.compile(r'(?:(?:\w+|"[^"]+")\.)?(?:\w+|"[^"]+")')
_LENGTH: Final = re.compile(r"\s*\(.*?\)| COLLATE .*")
_KEYWORDS: Final = frozenset({"uuid", "integer", "bigint", "smallint", "numeric", "citext"})
_INCOMPARABLE: Final = frozenset({"bytea", "boolean", "json", "jsonb", "float", "date"})


@dataclass(frozen=True, slots=True)
class OwnerStep:
    """One reference on the way from a row to the row that has the tenant.

    Attributes:
        table: Name of the table referred to.
        schema: Its schema; None for the one in which the referring table is.
        pairs: The referring columns, each with the column referred to.
    """

    table: str
    schema: str | None
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TenantRule:
    """How a row's tenant is found.

    Attributes:
        column: The tenant column: of the table itself, or of the table that the last step leads to.
        cast: The type that the tenant's id is cast to; None where the column holds text.
        through: References to follow first, where the table has no tenant column.
    """

    column: str = TENANT_COLUMN
    cast: str | None = None
    through: tuple[OwnerStep, ...] = ()

    def predicate(self, relation: str) -> str:
        """The rule as SQL for policies on ``relation``: the quoted name, without schema, of a table or partition."""
        if not self.through:
            return f"{quoted_identifier(self.column)} = {self._setting()}"
        inner = f"{_alias(len(self.through))}.{quoted_identifier(self.column)} = {self._setting()}"
        for depth in range(len(self.through), 0, -1):
            inner = self._exists(depth, relation, inner)
        return inner

    def matches(self, relation: str, schema: str, printed: str | None) -> bool:
        """True if ``printed``, as ``pg_get_expr`` gives it for a policy on ``schema.relation``, is this rule and no other."""
        if printed is None:
            return False
        place = (relation, schema) if self.through else ("", "")  # one pattern for all tables with the column
        return _printed(self, *place).fullmatch(" ".join(printed.split())) is not None

    def _setting(self) -> str:
        return _SETTING_SQL if self.cast is None else f"CAST({_SETTING_SQL} AS {self.cast})"

    def _exists(self, depth: int, relation: str, inner: str) -> str:
        step = self.through[depth - 1]
        referring = relation if depth == 1 else _alias(depth - 1)
        parts = [
            f"{_alias(depth)}.{quoted_identifier(referred)} = {referring}.{quoted_identifier(column)}"
            for column, referred in step.pairs
        ]
        where = " AND ".join([*parts, inner])
        return f"EXISTS (SELECT 1 FROM {_qualified(step)} AS {_alias(depth)} WHERE {where})"  # noqa: S608 - names are quoted


def rule_of(table: Table) -> TenantRule | None:
    """How the rows of ``table`` find their tenant; None if they belong to nobody.

    Raises:
        ConfigurationError: PostgreSQL cannot compare the tenant column with a tenant's id.
    """
    steps: list[OwnerStep] = []
    found = tenancy_of(table)
    while found.column is None:
        if found.owner is None:
            return None
        target = found.owner.table
        pairs = tuple((ours.name, theirs.name) for ours, theirs in found.owner.pairs)
        steps.append(OwnerStep(target.name, target.schema, pairs))
        found = tenancy_of(target)
    return TenantRule(found.column.name, _cast_for(found.column.type, table.name), tuple(steps))


def _cast_for(column_type: TypeEngine[Any], table: str) -> str | None:
    sql = _LENGTH.sub("", column_type.compile(dialect=_POSTGRESQL))
    name = sql.lower()
    if name in {"varchar", "text"}:
        return None
    is_text_uuid = name == "char" and python_type_of(column_type) is uuid.UUID
    if is_text_uuid or name in _INCOMPARABLE or not _TYPE_NAME.fullmatch(sql):
        raise ConfigurationError(
            f"The tenant column of {table} is of type {sql}{' and holds UUIDs' if is_text_uuid else ''}; row-level "
            f"security wants text, an integer or a native UUID."
        )
    # A cast to char, or to char(3), would cut "acme" down to the id of another tenant.
    return "bpchar" if name == "char" else name if name in _KEYWORDS else sql


def _alias(depth: int) -> str:
    return f"tenant_owner_{depth}"


def _qualified(step: OwnerStep) -> str:
    name = quoted_identifier(step.table)
    return name if step.schema is None else f"{quoted_identifier(step.schema)}.{name}"


@lru_cache(maxsize=16384)
def _printed(rule: TenantRule, relation: str, schema: str) -> re.Pattern[str]:
    tenant = _printed_name(rule.column)
    if rule.through:
        tenant = rf"{_alias(len(rule.through))}\.{tenant}"
    setting = re.escape(_SETTING_PRINTED)
    if rule.cast is not None:
        setting = rf"\({setting}\)::{_printed_type(rule.cast)}"
        pattern = rf"\({tenant} = {setting}\)"
    else:
        pattern = rf"\({_perhaps_text(tenant)} = {setting}\)"
    for depth in range(len(rule.through), 0, -1):
        pattern = _printed_exists(rule.through[depth - 1], depth, relation, schema, pattern)
    return re.compile(pattern)


def _printed_exists(step: OwnerStep, depth: int, relation: str, schema: str, inner: str) -> str:
    referring = _printed_name(relation) if depth == 1 else _alias(depth - 1)
    joined = " AND ".join(
        rf"\({_perhaps_text(_member(_alias(depth), referred))} = {_perhaps_text(_member(referring, column))}\)"
        for column, referred in step.pairs
    )
    # The schema is printed only if the table is not found by search_path.
    table = rf"(?:{_printed_name(step.schema or schema)}\.)?{_printed_name(step.table)}"
    where = rf"\({joined} AND {inner}\)"
    return rf"\(EXISTS \( SELECT 1 FROM {table} {_alias(depth)} WHERE {where}\)\)"  # noqa: S608 - a regular expression


def _member(relation: str, column: str) -> str:
    return rf"{relation}\.{_printed_name(column)}"


def _perhaps_text(column: str) -> str:
    """PostgreSQL prints a varchar column with the relabelling to text that it compares it by."""
    return rf"(?:{column}|\({column}\)::text)"


def _printed_name(name: str) -> str:
    quoted = re.escape(quoted_identifier(name))
    # Whether a plain name is quoted depends on the server's list of keywords.
    return f"(?:{name}|{quoted})" if _BARE_NAME.fullmatch(name) else quoted


def _printed_type(cast: str) -> str:
    # With its schema where search_path does not find it.
    return rf'(?:(?:\w+|"[^"]+")\.)?{_printed_name(cast.rpartition(".")[2].strip(chr(34)))}'
