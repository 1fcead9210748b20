"""INSERT … ON CONFLICT: which constraint is meant, and what the losing row is updated with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import DefaultClause, Index, UniqueConstraint, and_, case, false, select, tuple_, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from dotmac.database.errors import QueryError, ValidationError
from dotmac.database.models import utc_now
from dotmac.database.tenancy import Scope, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, ColumnElement, Select, Update
    from sqlalchemy.sql.dml import Insert

    from dotmac.database.models import ModelShape


@dataclass(frozen=True, slots=True)
class ConflictTarget:
    """A unique constraint that decides whether a row exists.

    Attributes:
        fields: Attribute names, the tenant included.
        where: The condition of a partial unique index, if it is one.
    """

    fields: tuple[str, ...]
    where: Any | None = None


def conflict_target(shape: ModelShape, match: Sequence[str] | None, given: set[str]) -> ConflictTarget:
    """The constraint that ``match`` names; without ``match`` the only one whose fields are all ``given``.

    The tenant column need not be named.

    Raises:
        ValidationError: No unique constraint fits, or several do; the message lists them.
    """
    targets, tenant = _targets(shape), _tenant_field(shape)
    if match is not None:
        wanted = set(match) - tenant
        fitting = [target for target in targets if set(target.fields) - tenant == wanted]
        fitting.sort(key=lambda target: tenant <= set(target.fields), reverse=True)
        fitting = fitting[:1]
    else:
        fitting = [target for target in targets if set(target.fields) <= given | tenant]
        # A key in the data says which row is meant, whatever else is unique.
        fitting = [target for target in fitting if target == targets[0]] or fitting
    if len(fitting) == 1:
        return fitting[0]
    what = "no unique constraint fits" if not fitting else "several unique constraints fit"
    raise ValidationError(
        f"{shape.name}: {what}. Pass match=[…] with the fields of one of: {_listed(targets)}.",
        model=shape.name,
    )


def require_unique(shape: ModelShape, given: set[str]) -> None:
    """Refuse fields that could be those of several rows.

    Raises:
        ValidationError: No unique constraint is covered by ``given``.
    """
    targets, tenant = _targets(shape), _tenant_field(shape)
    if not any(set(target.fields) <= given | tenant for target in targets):
        raise ValidationError(
            f"{shape.name}: several rows may have these fields. Look up by all fields of one of: {_listed(targets)}.",
            model=shape.name,
        )


def is_unique(shape: ModelShape, field: str) -> bool:
    """True if at most one row of a tenant that is not deleted has any one value of ``field``."""
    allowed = _tenant_field(shape) | {field}
    return any(
        field in target.fields
        and set(target.fields) <= allowed
        and (
            target.where is None
            or (shape.deleted_at is not None and str(target.where) == "deleted_at IS NULL")
        )
        for target in _targets(shape)
    )


def _tenant_field(shape: ModelShape) -> set[str]:
    return {"tenant_id"} if shape.tenant is not None else set()


def _listed(targets: Sequence[ConflictTarget]) -> str:
    return "; ".join(f"({', '.join(target.fields)})" for target in targets)


def _targets(shape: ModelShape) -> list[ConflictTarget]:
    names = {
        column.key: name for name, attribute in shape.columns.items() for column in attribute.property.columns
    }

    def is_mapped(constraint: UniqueConstraint | Index) -> bool:
        return all(column.key in names for column in constraint.columns)

    found = [ConflictTarget(shape.identity_names)]
    found.extend(
        ConflictTarget(tuple(names[column.key] for column in constraint.columns))
        for constraint in shape.table.constraints
        if isinstance(constraint, UniqueConstraint) and is_mapped(constraint)
    )
    for index in shape.table.indexes:
        if index.unique and _is_plain(index) and is_mapped(index):
            where = index.dialect_options["postgresql"].get("where")
            found.append(ConflictTarget(tuple(names[column.key] for column in index.columns), where))
    return [found[0], *sorted(found[1:], key=lambda item: item.fields)]  # the primary key first


def _is_plain(index: Index) -> bool:
    return len(index.expressions) == len(index.columns) and all(
        expression in set(index.columns) for expression in index.expressions
    )


def become_writer(shape: ModelShape) -> Update:
    """UPDATE of no row: on SQLite it takes the lock for writing."""
    [key, *_] = shape.table.primary_key.columns
    return update(shape.table).where(false()).values({key: key})


def insert_or_ignore(shape: ModelShape, row: dict[str, Any], dialect: str) -> Insert:
    """INSERT that does nothing where a row with the same unique values exists.

    On PostgreSQL and SQLite it returns the new row's key, or nothing.

    Raises:
        QueryError: The database has no such statement.
    """
    values = {_column(shape, name): value for name, value in row.items()}
    key = [attribute.property.columns[0] for attribute in shape.identity]
    if dialect == "postgresql":
        return postgresql.insert(shape.table).values(values).on_conflict_do_nothing().returning(*key)
    if dialect == "sqlite":
        return sqlite.insert(shape.table).values(values).on_conflict_do_nothing().returning(*key)
    if dialect in {"mysql", "mariadb"}:
        # Not INSERT IGNORE: that would also swallow values that do not fit.
        return mysql.insert(shape.table).values(values).on_duplicate_key_update({key[0].key: key[0]})
    raise QueryError(f"get_or_create needs INSERT … ON CONFLICT, which {dialect} has not.")


def was_inserted(result: Any, entity_key: tuple[Any, ...], row_key: tuple[Any, ...], dialect: str) -> bool:
    """Whether `insert_or_ignore` inserted; ``entity_key`` is the key of the row that is there now."""
    if dialect in {"postgresql", "sqlite"}:
        return result.first() is not None
    # The affected-rows count says 1 either way (CLIENT_FOUND_ROWS). A key from the server is the statement's insert id.
    return entity_key == (row_key if None not in row_key else (result.lastrowid,))


def insert_or_update(
    shape: ModelShape,
    scope: Scope,
    target: ConflictTarget,
    update: Sequence[str],
    extra: dict[str, Any],
    dialect: str,
) -> Insert:
    """INSERT that updates the row with the same unique values, if ``scope`` may see it; else it leaves that row alone.

    Args:
        shape: The model.
        scope: What may be updated.
        target: The constraint that decides.
        update: Attribute names taken from the new row.
        extra: Further attributes and their SQL values (``updated_at``).
        dialect: The database.

    Raises:
        QueryError: The database has no such statement.
    """
    guard = (*visible(shape, scope), *_of_this_class(shape))
    if dialect in {"postgresql", "sqlite"}:
        statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(shape.model)
        guard = (*guard, *_of_its_tenant(shape, scope, statement.excluded))
        elements = [shape.columns[name].property.columns[0] for name in target.fields]
        values = {name: statement.excluded[_column(shape, name)] for name in update} | extra
        if not values:  # nothing to change, but RETURNING needs the row to be touched
            values = {target.fields[-1]: statement.excluded[_column(shape, target.fields[-1])]}
        return statement.on_conflict_do_update(  # type: ignore[no-any-return] # two dialects' Insert
            index_elements=elements,
            index_where=target.where,
            set_={_column(shape, name): value for name, value in values.items()},
            where=and_(*guard) if guard else None,
        )
    if dialect in {"mysql", "mariadb"}:
        mysql_insert = mysql.insert(shape.model)
        # The new row's tenant is the scope's. It is named by its column: PyMySQL takes no parameters behind VALUES of many rows.
        across = Scope(include_deleted=scope.include_deleted, unscoped=True)
        guard = (
            *visible(shape, across),
            *_of_this_class(shape),
            *_of_its_tenant(shape, across, mysql_insert.inserted),
        )
        values = {name: mysql_insert.inserted[_column(shape, name)] for name in update} | extra
        values = values or {target.fields[-1]: shape.columns[target.fields[-1]]}
        # ON DUPLICATE KEY UPDATE has no WHERE: each column keeps its value where the row is not visible.
        guarded = {
            _column(shape, name): value
            if not guard
            else case((and_(*guard), value), else_=shape.columns[name].property.columns[0])
            for name, value in values.items()
        }
        return mysql_insert.on_duplicate_key_update(guarded)
    raise QueryError(f"upsert needs INSERT … ON CONFLICT, which {dialect} has not.")


def default_is_update(column: Column[Any]) -> bool:
    """Whether a row that is left to the server's default holds what an update would set: the transaction's time.

    An upsert then takes it from the new row. Citus refuses functions that are not immutable in DO UPDATE SET, and
    evaluates defaults beforehand. Not for nullable columns: a table made without the default would give NULL.
    """
    default = column.server_default
    return (
        not column.nullable
        and isinstance(default, DefaultClause)
        and isinstance(default.arg, utc_now)
        and column.onupdate is not None
        and isinstance(column.onupdate.arg, utc_now)  # type: ignore[attr-defined] # a clause, a value or a callable
    )


def _of_its_tenant(shape: ModelShape, scope: Scope, new: Any) -> tuple[ColumnElement[bool], ...]:
    """Across tenants, a row is updated by a row of its own tenant only, and never moves."""
    if shape.tenant is None or scope.tenant_id is not None:
        return ()
    return (shape.tenant == new[_column(shape, "tenant_id")],)


def _of_this_class(shape: ModelShape) -> tuple[ColumnElement[bool], ...]:
    """Rows of other classes share the table of single-table inheritance; a SELECT leaves them out by itself."""
    mapper = shape.mapper
    if not mapper.single or mapper.polymorphic_on is None:
        return ()
    return (mapper.polymorphic_on.in_([part.polymorphic_identity for part in mapper.self_and_descendants]),)


def _column(shape: ModelShape, name: str) -> str:
    key = shape.columns[name].property.columns[0].key
    return str(key)


def by_match(
    shape: ModelShape, scope: Scope, target: ConflictTarget, wanted: Sequence[tuple[Any, ...]]
) -> Select[Any]:
    """SELECT of the rows whose unique fields are ``wanted``."""
    attributes = [shape.columns[name] for name in target.fields]
    if len(attributes) == 1:
        return select(shape.model).where(
            attributes[0].in_([row[0] for row in wanted]), *visible(shape, scope)
        )
    return select(shape.model).where(tuple_(*attributes).in_(wanted), *visible(shape, scope))
