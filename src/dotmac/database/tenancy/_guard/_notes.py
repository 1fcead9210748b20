"""What compiling one statement found out, and what is left to ask each time it is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.sql.elements import BindParameter

from dotmac.database.errors import TenantMismatchError, UnprovableStatementError
from dotmac.database.tenancy._guard._raw import read_fragment, read_statement
from dotmac.database.tenancy._guard._work import executing, in_statement, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Table
    from sqlalchemy.types import TypeEngine

    from dotmac.database.tenancy._guard._raw import RawSql

_BIND_NAME = "dotmac_tenant"
_MISSING = object()


class Notes:
    """Made with each compiled statement, and kept with it.

    Attributes:
        doubts: What nothing proves, in words; then row-level security has to.
        doubtful: The tables these doubts are about.
        raw: What was seen in raw pieces of SQL that may matter.
        loose_names: Names in raw pieces that bring in no table by themselves.
        given: The parameters that hold a tenant somebody gave for a row, with the table and its column's type.
        references: Tables, the table of tenants that their new rows refer to, its columns, and the parameters that do.
    """

    __slots__ = (
        "_by_type",
        "_given_names",
        "_names_by_key",
        "_reserved",
        "doubtful",
        "doubts",
        "given",
        "loose_names",
        "raw",
        "references",
    )

    def __init__(self) -> None:
        self.doubts: list[str] = []
        self.doubtful: set[Table] = set()
        self.raw: list[RawSql] = []
        self.loose_names: set[str] = set()
        self.given: list[tuple[Any, Table, TypeEngine[Any]]] = []
        self.references: list[tuple[Any, ...]] = []
        self._by_type: dict[Any, BindParameter[Any]] = {}
        self._names_by_key: dict[str, str] | None = None
        self._given_names: list[tuple[str, Table, TypeEngine[Any]]] | None = None
        self._reserved: frozenset[str] | None = None

    @property
    def asks_nothing(self) -> bool:
        """True if nothing is left to ask at execution but the parameters."""
        return not (self.doubts or self.raw or self.references)

    def tenant(self, table: Table, column_type: TypeEngine[Any]) -> BindParameter[Any]:
        """The parameter that is the bound tenant, whoever it is when the statement is executed."""
        key = column_type._static_cache_key  # noqa: SLF001 - what SQLAlchemy takes for one type
        known = self._by_type.get(key)
        if known is None:

            def bound() -> Any:
                work = executing()
                return None if work is None else work.tenant_for(table, column_type)

            known = self._by_type[key] = BindParameter(
                _BIND_NAME, callable_=bound, type_=column_type, unique=True
            )
        return known

    def unproved(self, tables: Iterable[Table], reason: str) -> None:
        """Only row-level security of ``tables`` can make this statement safe."""
        found = list(tables)
        if found:
            self.doubtful.update(found)
            self.doubts.append(reason)

    def fragment(self, sql: str) -> None:
        """A raw piece inside the statement."""
        self._note(read_fragment(sql))

    def statement(self, sql: str) -> None:
        """The statement, or a whole subquery, is raw."""
        self._note(read_statement(sql))

    def _note(self, seen: RawSql) -> None:
        if seen.introduces or seen.opaque or seen.meddles:
            self.raw.append(seen)
        else:
            self.loose_names |= seen.names

    def settle(self, parameters: dict[str, Any], names: dict[Any, str]) -> None:
        """Compare the tenants given for rows with the bound one, and fill in those left out; before anything is sent.

        Raises:
            MissingTenantError: None is bound.
            TenantMismatchError: One is another's.
        """
        work = executing()
        if work is None:
            return
        if self._given_names is None:
            self._given_names = [
                (self.name_of(bind, names), table, column_type) for bind, table, column_type in self.given
            ]
        for name, table, column_type in self._given_names:
            wanted = work.tenant_for(table, column_type)
            value = parameters.get(name, _MISSING)
            if value is None:
                parameters[name] = wanted
            elif value is _MISSING:
                raise in_statement(UnprovableStatementError("whose row it writes is not plain"))
            elif value != wanted and str(value) != str(wanted):
                raise in_statement(TenantMismatchError(name_of(table)))

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

    def reserved(self, names: dict[Any, str]) -> frozenset[str]:
        """Names of the parameters that hold the bound tenant: nobody else may give them a value."""
        if self._reserved is None:
            self._reserved = frozenset(names[bind] for bind in self._by_type.values() if bind in names)
        return self._reserved

    def is_own(self, bind: BindParameter[Any]) -> bool:
        """True for a parameter that is the bound tenant."""
        return any(bind is own for own in self._by_type.values())
