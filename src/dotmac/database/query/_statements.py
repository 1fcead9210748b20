"""Statements on one model. Each carries the scope's predicates; there is no other way to build one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    ClauseElement,
    Enum,
    Executable,
    Select,
    String,
    Update,
    and_,
    any_,
    bindparam,
    cast,
    delete,
    func,
    literal,
    select,
    tuple_,
    union_all,
    update,
    values,
)
from sqlalchemy import column as sql_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import selectinload
from sqlalchemy.sql.util import find_tables
from sqlalchemy.types import TypeDecorator

from dotmac.database.errors import ValidationError
from dotmac.database.models import describe
from dotmac.database.query._filters import conditions
from dotmac.database.query._keyset import order_by
from dotmac.database.tenancy import Scope, require_tenant, tenant_value, visible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import ColumnElement, Delete
    from sqlalchemy.orm.interfaces import ORMOption
    from sqlalchemy.sql.compiler import SQLCompiler

    from dotmac.database.models import ModelShape
    from dotmac.database.query._keyset import SortKey
    from dotmac.database.query._options import Filter

_TENANT = "scope_tenant"
_NEW = "_new_values"  # no table is likely to have this name


def by_key(shape: ModelShape, scope: Scope, key: tuple[Any, ...]) -> tuple[Select[Any], dict[str, Any]]:
    """SELECT of the row with ``key``, and its parameters. The statement is built once per model."""
    require_tenant(shape, scope)
    scoped = shape.tenant is not None and scope.tenant_id is not None
    statement = _by_key(shape, scoped, scope.include_deleted)
    parameters = {f"key_{position}": part for position, part in enumerate(key)}
    if scoped:
        parameters[_TENANT] = tenant_value(shape, scope.tenant_id)
    return statement, parameters


@lru_cache(maxsize=4096)
def _by_key(shape: ModelShape, scoped: bool, include_deleted: bool) -> Select[Any]:  # noqa: FBT001 - cache key
    tenant: Any = bindparam(_TENANT) if scoped else None  # a placeholder; require_tenant has judged the scope
    scope = Scope(tenant, include_deleted, unscoped=not scoped)
    wanted = [attribute == bindparam(f"key_{position}") for position, attribute in enumerate(shape.key)]
    return select(shape.model).where(*wanted, *visible(shape, scope))


def by_keys(shape: ModelShape, scope: Scope, keys: Sequence[tuple[Any, ...]], dialect: str) -> Select[Any]:
    """SELECT of the rows with ``keys``, in no order."""
    return select(shape.model).where(_key_in(shape, keys, dialect), *visible(shape, scope))


def _key_in(shape: ModelShape, keys: Sequence[tuple[Any, ...]], dialect: str) -> ColumnElement[bool]:
    if len(shape.key) == 1:
        if dialect == "postgresql":  # one parameter, however many keys
            array = literal([key[0] for key in keys], ARRAY(shape.key[0].type))
            return shape.key[0] == any_(array)
        return shape.key[0].in_([key[0] for key in keys])
    return tuple_(*shape.key).in_(keys)


def matching(
    shape: ModelShape, scope: Scope, filters: Iterable[Filter], allowed: Collection[str] | None = None
) -> Select[Any]:
    """SELECT of the rows that match ``filters``."""
    return _all_rows(shape).where(*visible(shape, scope), *conditions(shape, filters, scope, allowed))


@lru_cache(maxsize=4096)
def _all_rows(shape: ModelShape) -> Select[Any]:
    return select(shape.model)


def ordered(statement: Select[Any], keys: tuple[SortKey, ...], dialect: str) -> Select[Any]:
    """``statement`` in the order of ``keys``."""
    return statement.order_by(*order_by(keys, dialect))


def eager(shape: ModelShape, scope: Scope, paths: Sequence[str]) -> list[ORMOption]:
    """Loader options for relationship paths (``"tasks.comments"``): one more statement each, under the same scope.

    Raises:
        ValidationError: There is no such relationship.
    """
    return [_eager(shape, scope, path) for path in paths]


def _eager(shape: ModelShape, scope: Scope, path: str) -> ORMOption:
    here, option = shape, None
    for name in path.split("."):
        if name not in here.relationships:
            known = ", ".join(sorted(here.relationships)) or "none"
            raise ValidationError(
                f"{here.name} has no relationship {name!r}. It has: {known}.", model=here.name, field=name
            )
        target = describe(here.mapper.relationships[name].mapper.class_)
        relationship = getattr(here.model, name)
        predicates = visible(target, scope)
        if predicates:
            relationship = relationship.and_(*predicates)
        option = selectinload(relationship) if option is None else option.selectinload(relationship)
        here = target
    return option  # type: ignore[return-value] # a path has at least one part


def instead_of_joins(shape: ModelShape) -> list[ORMOption]:
    """Loader options: one more statement for each relationship that the mapping loads by a join."""
    joined = (part for part in shape.mapper.relationships if part.lazy in {"joined", False})
    return [selectinload(getattr(shape.model, part.key)) for part in joined]


def deferred_join(shape: ModelShape, statement: Select[Any]) -> Select[Any]:
    """``statement`` (with its order, LIMIT and OFFSET) found by key first: rows that are skipped are never read in full.

    Raises:
        ValueError: It is ordered by something other than the model's own columns.
    """
    identity, order = shape.identity, statement._order_by_clauses  # noqa: SLF001 - SQLAlchemy has no public reading
    if not {table for clause in order for table in find_tables(clause, check_columns=True)} <= set(
        shape.mapper.tables
    ):
        raise ValueError(f"Order the query by columns of {shape.name} only: its rows are found by key first.")
    found = statement.with_only_columns(*identity, maintain_column_froms=True).subquery()
    wanted = select(shape.model).join(found, and_(*(part == found.c[part.key] for part in identity)))
    return wanted.order_by(*order)


def counting(statement: Select[Any], cap: int | None = None) -> Select[Any]:
    """SELECT of the number of rows of ``statement``, up to ``cap``."""
    bare = statement.order_by(None)
    if cap is None:
        return bare.with_only_columns(func.count(), maintain_column_froms=True)
    inner = bare.with_only_columns(literal(1).label("one"), maintain_column_froms=True).limit(cap).subquery()
    return select(func.count()).select_from(inner)


def any_row(statement: Select[Any]) -> Select[Any]:
    """SELECT of whether ``statement`` has a row."""
    return select(
        statement.order_by(None)
        .with_only_columns(literal(1).label("one"), maintain_column_froms=True)
        .exists()
    )


class Explain(Executable, ClauseElement):
    """``EXPLAIN (FORMAT JSON)`` of a SELECT: PostgreSQL's plan, without running it."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement

    def get_children(self, **_: Any) -> tuple[Select[Any]]:
        """The SELECT: a session with several engines looks for its tables."""
        return (self.statement,)


@compiles(Explain, "postgresql")
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.statement, **options)


def soft_delete_values(shape: ModelShape, now: Any) -> dict[str, Any]:
    """What soft-deleting sets."""
    changed: dict[str, Any] = {shape.deleted_at.key: now} if shape.deleted_at is not None else {}
    if "is_active" in shape.columns:
        changed["is_active"] = now is None
    return changed


def update_by_keys(
    shape: ModelShape, scope: Scope, keys: Sequence[tuple[Any, ...]], changed: dict[str, Any], dialect: str
) -> Update:
    """UPDATE of the rows with ``keys``, all to the same values."""
    return (
        update(shape.model)
        .where(_key_in(shape, keys, dialect), *visible(shape, scope))
        .values(changed)
        .execution_options(synchronize_session=False)
    )


def delete_by_keys(shape: ModelShape, scope: Scope, keys: Sequence[tuple[Any, ...]], dialect: str) -> Delete:
    """DELETE of the rows with ``keys``; loaded ones leave the session."""
    return (
        delete(shape.model)
        .where(_key_in(shape, keys, dialect), *visible(shape, scope))
        .execution_options(synchronize_session="fetch")
    )


def update_from_rows(
    shape: ModelShape, scope: Scope, names: Sequence[str], rows: Sequence[tuple[Any, ...]], dialect: str
) -> Update:
    """One UPDATE that gives each row its own values: ``rows`` hold the key, then the values of ``names``."""
    attributes = [*shape.key, *(shape.columns[name] for name in names)]
    columns = [sql_column(attribute.key, attribute.type) for attribute in attributes]
    if dialect == "postgresql":
        new: Any = values(*columns, name=_NEW).data(rows)
    else:  # neither SQLite nor MySQL can name the columns of VALUES
        new = union_all(*(_row(attributes, row) for row in rows)).subquery(_NEW)
    matches = [attribute == new.c[attribute.key] for attribute in shape.key]
    return (
        update(shape.model)
        .where(and_(*matches), *visible(shape, scope))
        .values({name: _typed(new.c[name], dialect) for name in names})
        .execution_options(synchronize_session=False)
    )


def _typed(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """PostgreSQL takes untyped VALUES (NULLs, and what psycopg sends without a type) for text, and text for nothing else."""
    inner = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    # A cast to varchar(n) would cut the text where an assignment refuses it.
    is_text = isinstance(inner, String) and not isinstance(inner, Enum)
    return column if dialect != "postgresql" or is_text else cast(column, column.type)


def _row(attributes: Sequence[Any], row: tuple[Any, ...]) -> Select[Any]:
    return select(
        *(
            literal(value, attribute.type).label(attribute.key)
            for attribute, value in zip(attributes, row, strict=True)
        )
    )
