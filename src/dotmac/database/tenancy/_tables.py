"""Which tables hold tenants' rows: those with a tenant column, and those whose rows hang on such a row.

A table says otherwise with ``info={"tenant_scoped": False}``, a model with ``__tenant_scoped__ = False``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Column, MetaData, Table, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.mapper import _all_registries

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANT_COLUMN = "tenant_id"
"""Name, or attribute key, of the column that says whose a row is."""

_SCOPED = "tenant_scoped"
_FACTS = "dotmac_tenancy"


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """How a row without a tenant column hangs on one that has it: it cannot exist without that row.

    Attributes:
        table: The table whose row owns it; it has a tenant column, or an owner in turn.
        pairs: The columns that refer to it, each with the column referred to.
    """

    table: Table
    pairs: tuple[tuple[Column[Any], Column[Any]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TableTenancy:
    """Whose a table's rows are. Both None: nobody's, everybody may see them.

    Attributes:
        column: The tenant column.
        owner: What its rows hang on, where it has no tenant column of its own.
    """

    column: Column[Any] | None = None
    owner: Owner | None = None

    @property
    def is_divided(self) -> bool:
        """True if rows belong to tenants."""
        return self.column is not None or self.owner is not None


_SHARED = TableTenancy()
_by_name: dict[str, WeakSet[Table]] = {}


@event.listens_for(Table, "after_parent_attach")
def _note_name(table: Table, _metadata: object) -> None:
    _by_name.setdefault(table.name.lower(), WeakSet()).add(table)


def divided_by_name(name: str) -> list[Table]:
    """The tables of that name (without a schema, in any case) that hold tenants' rows, of every ``MetaData`` alive."""
    return [table for table in _by_name.get(name.lower(), ()) if tenancy_of(table).is_divided]


def tenancy_of(table: Table) -> TableTenancy:
    """Whose the rows of ``table`` are; worked out once, and again when the table has gained columns or constraints."""
    stamp = (len(table.columns), len(table.constraints), table.info.get(_SCOPED))
    known = table.info.get(_FACTS)
    if known is not None and known[0] == stamp:
        found: TableTenancy = known[1]
        return found
    found = _tenancy_of(table, frozenset())
    if found.owner is not None or not table.foreign_keys or found.column is not None:
        table.info[_FACTS] = (stamp, found)
    return found


def _tenancy_of(table: Table, above: frozenset[Table]) -> TableTenancy:
    if not table.info.get(_SCOPED, True):
        return _SHARED
    column = table.columns.get(TENANT_COLUMN)
    if column is None:
        column = next((other for other in table.columns if other.name == TENANT_COLUMN), None)
    if column is None and isinstance(named := table.info.get(TENANT_COLUMN), Column):
        column = named  # a mapper calls this column tenant_id
    if column is not None:
        return TableTenancy(column)
    return TableTenancy(owner=_owner_of(table, above | {table}))


def _owner_of(table: Table, above: frozenset[Table]) -> Owner | None:
    """The first reference without which no row can be; primary keys first: they are joined inheritance and link tables."""
    found: list[tuple[bool, str, Owner]] = []
    for constraint in table.foreign_key_constraints:
        columns = tuple(constraint.columns)
        if any(column.nullable for column in columns):
            continue
        try:
            target = constraint.referred_table
            pairs = tuple((element.parent, element.column) for element in constraint.elements)
        except InvalidRequestError:  # the other table is not defined (yet), and owns nothing
            continue
        if target not in above and _tenancy_of(target, above).is_divided:
            in_key = all(column.primary_key for column in columns)
            found.append((not in_key, ",".join(column.name for column in columns), Owner(target, pairs)))
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def references_of(table: Table) -> list[tuple[Table, tuple[tuple[Column[Any], Column[Any]], ...]]]:
    """References to tenants' tables that do not carry the tenant, so that the server would take another tenant's row.

    Each with the table referred to, and the columns that refer, with the columns referred to.
    """
    found = []
    own = tenancy_of(table)
    if not own.is_divided:
        return []
    for constraint in table.foreign_key_constraints:
        try:
            target = constraint.referred_table
            pairs = tuple((element.parent, element.column) for element in constraint.elements)
        except InvalidRequestError:  # likewise: nobody knows whose its rows are
            continue
        theirs = tenancy_of(target)
        carried = own.column is not None and any(
            mine is own.column and other is theirs.column for mine, other in pairs
        )
        if theirs.is_divided and not carried:
            found.append((target, pairs))
    return found


def divided_tables(metadata: MetaData) -> Iterator[Table]:
    """The tables of ``metadata`` that hold tenants' rows, owners before what hangs on them."""
    return (table for table in metadata.sorted_tables if tenancy_of(table).is_divided)


@event.listens_for(Mapper, "instrument_class")
def _note_models_word(mapper: Mapper[Any], model: type[Any]) -> None:
    """A model's ``__tenant_scoped__``, and the column it calls ``tenant_id``, are known by the table as well."""
    table = mapper.local_table
    if not isinstance(table, Table):
        return
    table.info.setdefault("dotmac_model", model.__name__)
    if getattr(model, "__tenant_scoped__", True) is False and mapper.inherits is None:
        table.info[_SCOPED] = False
    properties = getattr(mapper, "_init_properties", {})
    named = properties.get(TENANT_COLUMN)
    if isinstance(named, Column) and named.table is table:
        table.info.setdefault(TENANT_COLUMN, named)


def _note_what_is_there() -> None:
    """Tables and models that were declared before this module was imported."""
    for registry in _all_registries():
        for table in registry.metadata.tables.values():
            _note_name(table, registry.metadata)
        for mapper in registry.mappers:
            if isinstance(mapper.local_table, Table):
                _note_name(mapper.local_table, None)
            _note_models_word(mapper, mapper.class_)


_note_what_is_there()
