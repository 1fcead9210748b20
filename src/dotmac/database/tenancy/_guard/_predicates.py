"""Keep the tables in a FROM to one tenant: which predicates they need, and whether these go to WHERE or into a join's ON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, and_, exists
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause, Grouping, TextClause, UnaryExpression
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import AliasedReturnsRows, FromGrouping, Join, TableClause
from sqlalchemy.sql.visitors import iterate

from dotmac.database.tenancy._scope import OWN_MARK
from dotmac.database.tenancy._tables import TableTenancy, divided_by_name, tenancy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, FromClause
    from sqlalchemy.sql.elements import BindParameter

    from dotmac.database.tenancy._guard._notes import Notes

_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid", "rowid", "_rowid_"})

Predicate = Any  # ColumnElement[bool]; SQLAlchemy's coercions take it as one


def facts_of(table: TableClause) -> tuple[TableTenancy, Any]:
    """Whose a table's rows are, and the table that says so.

    A hand-written ``table("users")``, or a Table that leaves the tenant column out, is told by the name of one that has it.
    """
    if isinstance(table, Table):
        facts = tenancy_of(table)
        if facts.is_divided or table.info.get("tenant_scoped") is False:
            return facts, table
    for known in divided_by_name(table.name):
        if known.metadata is getattr(table, "metadata", None):
            continue  # the same name in another schema of one MetaData is another table
        if not isinstance(table, Table) or {column.name for column in table.columns} <= _SYSTEM_COLUMNS | {
            column.name for column in known.columns
        }:
            return tenancy_of(known), known
    return TableTenancy(), table


def predicate(item: FromClause, table: TableClause, notes: Notes) -> Predicate | None:
    """What keeps ``item`` (``table`` or an alias of it) to the tenant; None where its rows are nobody's."""
    facts, known = facts_of(table)
    if facts.column is not None:
        return _column(item, facts.column) == notes.tenant(known, facts.column.type)
    if facts.owner is not None:
        owner = facts.owner.table.alias()
        links = [owner.c[theirs.key] == _column(item, mine) for mine, theirs in facts.owner.pairs]
        # The alias is compiled like any other table: it gets its own tenant, or its own owner.
        return exists().where(and_(*links)).select_from(owner).correlate(item)
    return None


def _column(item: FromClause, column: Any) -> ColumnElement[Any]:
    found: ColumnElement[Any] | None = item.c.get(column.key)
    if found is None:
        found = next((other for other in item.c if other.name == column.name), None)
    if found is None:
        found = ColumnClause(column.name, column.type, _selectable=item)
    return found


def keep_from(item: Any, notes: Notes) -> tuple[Any, list[Predicate]]:
    """``item`` as it goes into FROM, and what goes to the WHERE around it."""
    if isinstance(item, Join):
        return _keep_join(item, notes)
    if isinstance(item, FromGrouping):
        inner, predicates = keep_from(item.element, notes)
        return (item if inner is item.element else FromGrouping(inner)), predicates
    base = item
    while isinstance(base, AliasedReturnsRows):
        base = base.element
    if isinstance(base, TableClause):
        notes.fragment(base.name)  # of the server's own tables some show what others have
        found = predicate(item, base, notes)
        return item, [] if found is None else [found]
    if isinstance(base, Join) and base is not item:
        notes.unproved(tables_in(base), "it gives a name to a whole join")
    return item, []  # a SELECT, which is compiled by itself


def _keep_join(join: Join, notes: Notes) -> tuple[Join, list[Predicate]]:
    left, left_predicates = keep_from(join.left, notes)
    right, right_predicates = keep_from(join.right, notes)
    if join.full and (left_predicates or right_predicates):
        notes.unproved(tables_in(join), "a full outer join cannot be kept to a tenant from outside")
        return join, []
    onclause = join.onclause
    outside = left_predicates
    if join.isouter and right_predicates:
        onclause = and_(closed(onclause), *right_predicates)
    else:
        outside = [*left_predicates, *right_predicates]
    if left is join.left and right is join.right and onclause is join.onclause:
        return join, outside
    kept = join._clone()  # noqa: SLF001 - as SQLAlchemy's own visitors copy elements
    kept.left, kept.right, kept.onclause = left, right, onclause
    return kept, outside


def tables_in(item: Any) -> list[Table]:
    """The tenants' tables under ``item``."""
    found = []
    for element in iterate(item):
        if isinstance(element, TableClause):
            facts, known = facts_of(element)
            if facts.is_divided:
                found.append(known)
    return found


def closed(criterion: Any) -> Any:
    """``criterion``, in parentheses if words of the caller's in it might bind more loosely than AND."""
    return Grouping(criterion) if any(map(_is_loose, iterate(criterion))) else criterion


def without_repeated(criteria: Iterable[Any], wanted: Iterable[Any]) -> list[Any]:
    """``criteria`` without the repositories' own comparisons with the tenant that ``wanted`` makes too.

    What is left out is at most as wide as what stands in its place, whoever marked it.
    """
    kept = list(criteria)
    if any(OWN_MARK in item._annotations for item in kept):  # noqa: SLF001 - how SQLAlchemy marks elements
        columns = {_compared(item) for item in wanted if isinstance(item, BinaryExpression)}
        kept = [
            item
            for item in kept
            if OWN_MARK not in item._annotations or _compared(item) not in columns  # noqa: SLF001
        ]
    return kept


def _compared(comparison: Any) -> tuple[Any, str]:
    return comparison.left.table, comparison.left.key


def _is_loose(element: Any) -> bool:
    if isinstance(element, TextClause) or getattr(element, "is_literal", False):
        return True
    if type(element).__name__ in {"TString", "TStringText"}:
        return True
    if isinstance(element, BinaryExpression | UnaryExpression):
        operators = (element.operator, getattr(element, "modifier", None))
        return any(isinstance(operator, custom_op) for operator in operators)
    return False


def tenant_is(table: TableClause, facts: TableTenancy, value: BindParameter[Any]) -> Predicate:
    """The predicate of the table that a statement writes to, without an alias."""
    return _column(table, facts.column) == value
