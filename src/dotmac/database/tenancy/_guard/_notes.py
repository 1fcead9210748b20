"""What compiling one statement found out, and what is left to ask each time it is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.sql.elements import BindParameter

from dotmac.database.errors import TenantMismatchError, UnprovableStatementError
from dotmac.database.tenancy._guard._raw import RawSql, read_fragment, read_statement
from dotmac.database.tenancy._guard._work import in_statement, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Table
    from sqlalchemy.types import TypeEngine

    from dotmac.database.tenancy._guard._work import Work

_BIND_NAME = "dotmac_tenant"
_MISSING = object()


class Notes:
    """Made with each compiled statement, and kept with it.

    Attributes:
        doubts: What nothing proves, in words; then row-level security has to.
        doubtful: The tables these doubts are about.
        is_elsewhere: True if a table is named in another schema than the model that tells whose its rows are.
        raw: What was seen in raw pieces of SQL that may matter.
        loose_names: Names in raw pieces that bring in no table by themselves.
        loose_strings: Texts in these, which SQLite may take for names.
        given: The parameters that hold a tenant somebody gave for a row, with the table and its column's type.
        references: Tables, the table of tenants that their new rows refer to, its columns, and the parameters that do.
    """

    __slots__ = (
        "_given_names",
        "_names_by_key",
        "_own",
        "_own_names",
        "doubtful",
        "doubts",
        "given",
        "is_elsewhere",
        "loose_names",
        "loose_strings",
        "raw",
        "references",
    )

    def __init__(self) -> None:
        self.doubts: list[str] = []
        self.doubtful: set[Table] = set()
        self.is_elsewhere = False
        self.raw: list[RawSql] = []
        self.loose_names: set[str] = set()
        self.loose_strings: set[str] = set()
        self.given: list[tuple[Any, Table, TypeEngine[Any]]] = []
        self.references: list[tuple[Any, ...]] = []
        self._own: dict[Any, tuple[BindParameter[Any], Table]] = {}
        self._own_names: list[tuple[str, Table, TypeEngine[Any]]] | None = None
        self._names_by_key: dict[str, str] | None = None
        self._given_names: list[tuple[str, Table, TypeEngine[Any]]] = []

    @property
    def asks_nothing(self) -> bool:
        """True if nothing is left to ask at execution but the parameters."""
        return not (self.doubts or self.raw or self.references)

    def tenant(
        self, table: Table, column_type: TypeEngine[Any], *, in_values: bool = False
    ) -> BindParameter[Any]:
        """The parameter that is the bound tenant, whoever it is when the statement is executed.

        Args:
            table: Where it is compared or written.
            column_type: The type of that table's column.
            in_values: True for one of a row of VALUES, which SQLAlchemy repeats for each row; nothing else may share it.
        """
        alike = column_type._static_cache_key  # noqa: SLF001 - what SQLAlchemy takes for one type
        key = alike if isinstance(alike, tuple) else column_type, in_values  # else it cannot be cached
        known = self._own.get(key)
        if known is None:
            # Required: were it ever left out, nothing would be sent.
            bind: BindParameter[Any] = BindParameter(
                _BIND_NAME, required=True, type_=column_type, unique=True
            )
            known = self._own[key] = bind, table
        return known[0]

    def unproved(self, tables: Iterable[Table], reason: str) -> None:
        """Only row-level security of ``tables`` can make this statement safe."""
        found = list(tables)
        if found:
            self.doubtful.update(found)
            self.doubts.append(reason)

    def refuse(self, reason: str) -> None:
        """Nothing can make this statement safe."""
        self.raw.append(RawSql(opaque=reason))

    def fragment(self, sql: str) -> None:
        """A raw piece inside the statement."""
        self._note(read_fragment(sql))

    def statement(self, sql: str) -> None:
        """The statement, or a whole subquery, is raw."""
        self._note(read_statement(sql))

    def _note(self, seen: RawSql) -> None:
        if seen.introduces or seen.opaque or seen.meddles or seen.qualified:
            self.raw.append(seen)
        if not seen.introduces:
            self.loose_names |= seen.names
            self.loose_strings |= seen.strings

    def supplied(
        self, work: Work, rows: Sequence[Mapping[str, Any]], names: dict[Any, str]
    ) -> Sequence[Mapping[str, Any]]:
        """The values of the parameters, with the bound tenant where it belongs and where ``rows`` leave it out.

        Raises:
            MissingTenantError: None is bound.
            UnprovableStatementError: Somebody else gives a value to a parameter that is the bound tenant.
        """
        if self._own_names is None:
            self._learn(names)
        own = {name: work.tenant_for(table, of_type) for name, table, of_type in self._own_names or ()}
        if own:
            if not rows:
                return [own]
            if not all(map(own.keys().isdisjoint, rows)):
                raise in_statement(UnprovableStatementError("a parameter takes the name of the tenant's"))
            rows = [{**row, **own} for row in rows]
        for name, table, of_type in self._given_names:
            wanted = work.tenant_for(table, of_type)
            if any(row.get(name, wanted) is None for row in rows):
                rows = [{**row, name: wanted} if row.get(name, wanted) is None else row for row in rows]
        return rows

    def completed(
        self, work: Work, rows: Sequence[Mapping[str, Any]], sent: list[dict[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """``rows``, with the bound tenant where the statement itself says None; the same object where it does not."""
        for name, table, of_type in self._given_names:
            if any(row.get(name, _MISSING) is None for row in sent):
                wanted = work.tenant_for(table, of_type)
                rows = [
                    {**row, name: wanted} if values.get(name, _MISSING) is None else row
                    for row, values in zip(rows or [{}], sent, strict=True)
                ]
        return rows

    def settle(self, work: Work, rows: list[dict[str, Any]]) -> None:
        """Compare the tenants given for rows with the bound one, on what is about to be sent.

        Raises:
            MissingTenantError: None is bound.
            TenantMismatchError: One is another's.
        """
        for name, table, of_type in self._given_names:
            wanted = work.tenant_for(table, of_type)
            for row in rows:
                value = row.get(name, _MISSING)
                if value is _MISSING:
                    raise in_statement(UnprovableStatementError("whose row it writes is not plain"))
                if value is not wanted and value != wanted and str(value) != str(wanted):
                    raise in_statement(TenantMismatchError(name_of(table)))

    def _learn(self, names: dict[Any, str]) -> None:
        self._given_names = [
            (self.name_of(bind, names), table, of_type) for bind, table, of_type in self.given
        ]
        # Last: another thread takes all of this for known as soon as this is.
        self._own_names = [
            (names[bind], table, bind.type) for bind, table in self._own.values() if bind in names
        ]

    def name_of(self, bind: Any, names: dict[Any, str]) -> str:
        """The name under which a parameter is in a row's values."""
        if isinstance(bind, str):
            return bind
        if self._names_by_key is None:
            self._names_by_key = {
                own.key: name for own, name in names.items()
            }  # SQLAlchemy may have put copies in
        key: str = bind.key
        return self._names_by_key.get(key, key)

    def is_own(self, bind: BindParameter[Any]) -> bool:
        """True for a parameter that is the bound tenant."""
        return any(bind is own for own, _table in self._own.values())
