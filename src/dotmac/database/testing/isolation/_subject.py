"""A model under attack: rows of two tenants in its table and in those it hangs on, made by an administrator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Enum, Table, and_, insert
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper, make_transient_to_detached

from dotmac.database.models import python_type_of
from dotmac.database.tenancy import tenancy_of
from dotmac.database.testing.isolation._attack import NotApplicableError
from dotmac.database.testing.isolation._values import MARK_CHARS, new_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

    Row = dict[Any, Any]  # values by column
    Values = Mapping[type[Any], Callable[[str], Mapping[str, Any]]]

ROWS_PER_TENANT = 2


@dataclass(slots=True, eq=False)
class Subject:
    """A model, with rows of the attacker and of another tenant.

    Attributes:
        model: The mapped class.
        tenant: The attacker.
        other: Whose rows it must never reach.
        own_rows: Rows of the attacker.
        foreign_rows: Rows of the other.
        own_total: How many rows of the model's table are the attacker's.
        tries_unsafe_keys: Try also what only keys stop where there are none: keys without a tenant, references unchecked.
    """

    model: type[Any]
    tenant: str
    other: str
    own_rows: list[Row] = field(default_factory=list)
    foreign_rows: list[Row] = field(default_factory=list)
    own_total: int = 0
    tries_unsafe_keys: bool = False

    def __str__(self) -> str:
        return self.model.__name__

    @property
    def mapper(self) -> Mapper[Any]:
        """The model's mapper."""
        mapper: Mapper[Any] = sa_inspect(self.model)
        return mapper

    @property
    def table(self) -> Table:
        """The table that the model's own columns are in."""
        table = self.mapper.local_table
        if not isinstance(table, Table):
            raise NotApplicableError(f"{self.model.__name__} is not mapped to a table")
        return table

    @property
    def mine(self) -> Row:
        """A row of the attacker: its values by column, over all tables of the model."""
        return self.own_rows[0]

    @property
    def theirs(self) -> Row:
        """A row of the other tenant, likewise."""
        return self.foreign_rows[0]

    @property
    def tenant_column(self) -> Column[Any]:
        """The tenant column of the model's table.

        Raises:
            NotApplicableError: It has none.
        """
        column = tenancy_of(self.table).column
        if column is None:
            raise NotApplicableError(f"{self.table.name} has no tenant column")
        return column

    @property
    def tenant_key(self) -> str:
        """Name of the attribute that holds the tenant."""
        key: str = self.mapper.get_property_by_column(self.tenant_column).key
        return key

    @property
    def secret(self) -> Column[Any]:
        """A column of the model's table whose value is recognisable and may be changed.

        Raises:
            NotApplicableError: There is none.
        """
        tenant = tenancy_of(self.table).column
        for column in self.table.columns:
            value = self.theirs.get(column)
            if (
                isinstance(value, str)
                and len(value) >= MARK_CHARS
                and column is not tenant
                and not column.primary_key
                and not column.foreign_keys
            ):
                return column
        raise NotApplicableError(f"{self.table.name} has no text column to tell its rows by")

    @property
    def secret_key(self) -> str:
        """Name of the attribute that holds the secret."""
        key: str = self.mapper.get_property_by_column(self.secret).key
        return key

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """The primary key of ``row``, as ``session.get`` takes it."""
        return tuple(row[column] for column in self.mapper.primary_key)

    def where(self, row: Row, table: Table | None = None) -> ColumnElement[bool]:
        """The predicate that finds ``row`` by the key of ``table``."""
        keys = (self.table if table is None else table).primary_key.columns
        return and_(*(column == row[column] for column in keys))

    def local(self, row: Row) -> dict[str, Any]:
        """The values of ``row`` in the model's own table, by the columns' keys."""
        return {column.key: value for column, value in row.items() if column.table is self.table}

    def attributes(self, row: Row) -> dict[str, Any]:
        """The values of ``row`` by attribute."""
        return {self.mapper.get_property_by_column(column).key: value for column, value in row.items()}

    def fresh(self, tenant: str) -> Row:
        """Values of one more row that would belong to ``tenant``; it hangs on what that tenant's first row hangs on."""
        known = self.mine if tenant == self.tenant else self.theirs
        row = dict(known)
        tables = [table for table in self.mapper.tables if isinstance(table, Table)]
        for table in tables:
            for column in table.columns:
                fixed = (tenancy_of(table).column, self.mapper.polymorphic_on)
                if column not in row or column.foreign_keys or any(column is one for one in fixed):
                    continue
                row[column] = new_value(column)
        _tie(row, tables)
        return row

    def detached(self, row: Row, **changes: Any) -> Any:
        """``row`` as a detached object; ``changes`` are made afterwards, as by its user."""
        found = {
            self.mapper.get_property_by_column(column).key: row[column] for column in self.mapper.primary_key
        }
        column = next((one for one in row if tenancy_of(one.table).column is one), None)
        if column is not None:
            found[self.mapper.get_property_by_column(column).key] = row[column]
        entity = self.model(**found)
        make_transient_to_detached(entity)
        for name, value in changes.items():
            setattr(entity, name, value)
        return entity


def seed(
    connections: Mapping[str, Connection],
    models: Iterable[type[Any]],
    tenants: tuple[str, str],
    values: Values | None = None,
) -> list[Subject]:
    """Insert rows of both tenants for each model, and for what the models hang on; returns the tenants' models.

    Args:
        connections: The administrator's, by tenant; they may be the same.
        models: Mapped classes; those whose rows belong to nobody are passed over.
        tenants: The attacker, and the other.
        values: For models whose values cannot be made up: a function from the tenant to values by attribute.

    Raises:
        TypeError: A column's type is not known; pass ``values``.
    """
    seeder = _Seeder(connections, dict(values or {}))
    found = []
    for model in models:
        subject = Subject(model, *tenants)
        if not any(
            tenancy_of(table).is_divided for table in subject.mapper.tables if isinstance(table, Table)
        ):
            continue
        for tenant, rows in ((tenants[0], subject.own_rows), (tenants[1], subject.foreign_rows)):
            rows.extend(seeder.rows_of(subject.mapper, tenant))
            for relation in subject.mapper.relationships:
                if any(
                    tenancy_of(table).is_divided
                    for table in relation.mapper.tables
                    if isinstance(table, Table)
                ):
                    seeder.rows_of(relation.mapper, tenant)
        found.append(subject)
    for subject in found:
        subject.own_total = seeder.made[subject.table, subject.tenant]
    return found


class _Seeder:
    """Makes rows once per table and tenant, so that what hangs together does."""

    def __init__(
        self,
        connections: Mapping[str, Connection],
        values: dict[type[Any], Callable[[str], Mapping[str, Any]]],
    ) -> None:
        self._connections = connections
        self.made: Counter[tuple[Table, str]] = Counter()
        self._values = values
        self._rows: dict[tuple[Any, str], list[Row]] = {}
        self._parents: dict[tuple[Table, str], Row] = {}

    def rows_of(self, mapper: Mapper[Any], tenant: str) -> list[Row]:
        known = self._rows.get((mapper, tenant))
        if known is None:
            known = self._rows[mapper, tenant] = []
            known.extend(self._new(mapper, tenant) for _ in range(ROWS_PER_TENANT))
        return known

    def _new(self, mapper: Mapper[Any], tenant: str) -> Row:
        make = self._values.get(mapper.class_)
        given: Mapping[str, Any] = {} if make is None else make(tenant)
        row: Row = {}
        for table in mapper.tables:
            row.update(self._values_for(table, tenant))
        kind: Any = mapper.polymorphic_on
        if isinstance(kind, Column):
            row[kind] = mapper.polymorphic_identity
        for name, value in given.items():
            for column in mapper.get_property(name).columns:
                row[column] = value
        _tie(row, mapper.tables)
        for table in mapper.tables:
            if isinstance(table, Table):
                self._insert(table, row, tenant)
        return row

    def _values_for(self, table: Any, tenant: str) -> Row:
        tenant_column = tenancy_of(table).column
        row: Row = {}
        for column in table.columns:
            if tenant_column is not None and column is tenant_column:
                row[column] = _as_tenant(column.type, tenant)
            elif column.computed is not None or column.foreign_keys:
                continue
            elif column.primary_key or (not column.nullable and not _has_default(column)) or _is_text(column):
                row[column] = new_value(column)
        for constraint in table.foreign_key_constraints:
            if constraint.referred_table is table or all(column.nullable for column in constraint.columns):
                continue
            parent = self._parent(constraint.referred_table, tenant)
            for element in constraint.elements:
                row[element.parent] = parent[element.column]
        return row

    def _parent(self, table: Table, tenant: str) -> Row:
        known = self._parents.get((table, tenant))
        if known is None:
            known = self._parents[table, tenant] = self._values_for(table, tenant)
            self._insert(table, known, tenant)
        return known

    def _insert(self, table: Table, row: Row, tenant: str) -> None:
        self.made[table, tenant] += 1
        values = {column.key: value for column, value in row.items() if column.table is table}
        self._connections[tenant].execute(insert(table).values(values))


def _tie(row: Row, tables: Sequence[Any]) -> None:
    """Give a subclass's table the key of its parent's row."""
    for table in tables:
        for constraint in table.foreign_key_constraints:
            if constraint.referred_table in tables and constraint.referred_table is not table:
                for element in constraint.elements:
                    if element.parent.primary_key:
                        row[element.parent] = row[element.column]


def _as_tenant(column_type: Any, tenant: str) -> Any:
    kind = python_type_of(column_type)
    return tenant if kind is None or kind is str else kind(tenant)


def _has_default(column: Column[Any]) -> bool:
    return column.default is not None or column.server_default is not None or column.identity is not None


def _is_text(column: Column[Any]) -> bool:
    return python_type_of(column.type) is str and not isinstance(column.type, Enum)
