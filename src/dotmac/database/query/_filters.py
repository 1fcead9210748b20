"""Filters to SQL conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, JSON, and_, case, false, not_, null, or_, true

from dotmac.database.errors import ValidationError
from dotmac.database.models import EncryptedString, describe
from dotmac.database.query._coercion import coerce, is_textual
from dotmac.database.query._fields import FieldPath, require_allowed, resolve_field
from dotmac.database.query._keyset import orderable
from dotmac.database.query._options import Filter, FilterGroup, FilterOperator, QueryFilter
from dotmac.database.query._text_matches import TEXT_MATCHES
from dotmac.database.tenancy import Scope, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from sqlalchemy import ColumnElement

    from dotmac.database.models import ModelShape

_MAX_DEPTH = 16
_MAX_IN_VALUES = 30_000  # PostgreSQL's protocol has 65,535 parameters a statement, asyncpg 32,767

_Op = FilterOperator

_COMPARISONS: dict[FilterOperator, Callable[[Any, Any], ColumnElement[bool]]] = {
    _Op.EQ: lambda column, value: column == value,
    _Op.NE: lambda column, value: column != value,
    _Op.GT: lambda column, value: column > orderable(value),
    _Op.GTE: lambda column, value: column >= orderable(value),
    _Op.LT: lambda column, value: column < orderable(value),
    _Op.LTE: lambda column, value: column <= orderable(value),
}


def conditions(
    shape: ModelShape, filters: Iterable[Filter], scope: Scope, allowed: Collection[str] | None = None
) -> list[ColumnElement[bool]]:
    """SQL for ``filters``; related rows reached through ``relation.field`` obey ``scope`` too.

    Raises:
        ValidationError: A field does not exist or is not allowed, or a value does not fit its column.
    """
    return [_condition(shape, item, scope, allowed, depth=0) for item in filters]


def _condition(
    shape: ModelShape, item: Filter, scope: Scope, allowed: Collection[str] | None, *, depth: int
) -> ColumnElement[bool]:
    if isinstance(item, QueryFilter):
        require_allowed(item.field, allowed, shape, "filtered")
        return _through_relations(resolve_field(shape, item.field), item, scope)
    if depth >= _MAX_DEPTH:
        raise ValidationError(
            f"{shape.name}: filter groups nest at most {_MAX_DEPTH} deep.", model=shape.name
        )

    def parts(group: tuple[QueryFilter | FilterGroup, ...]) -> list[ColumnElement[bool]]:
        return [_condition(shape, part, scope, allowed, depth=depth + 1) for part in group]

    clauses = parts(item.all_of)
    if item.any_of:
        clauses.append(or_(*parts(item.any_of)))
    clauses.extend(not_(part) for part in parts(item.none_of))
    return and_(*clauses)


def _through_relations(path: FieldPath, item: QueryFilter, scope: Scope) -> ColumnElement[bool]:
    clause = _on_column(path, item)
    for owner, relation in reversed(path.relations):
        relationship = getattr(owner.model, relation)
        target = describe(owner.mapper.relationships[relation].mapper.class_)
        wanted = and_(clause, *visible(target, scope))
        uselist = owner.mapper.relationships[relation].uselist
        clause = relationship.any(wanted) if uselist else relationship.has(wanted)
    return clause


def _on_column(path: FieldPath, item: QueryFilter) -> ColumnElement[bool]:  # noqa: C901, PLR0911 - a case an operator
    attribute, operator, value = path.attribute, item.operator, item.value
    name = path.shape.name
    if path.json_path:
        return _on_json(path, item)
    if operator in {_Op.IS_NULL, _Op.IS_NOT_NULL}:
        return _null_check(attribute, item, name)
    if isinstance(path.type, EncryptedString):
        raise _refused(path, item, "the column is encrypted, equal texts are not equal in it")
    if operator in {_Op.ARRAY_CONTAINS, _Op.ARRAY_CONTAINED_BY}:
        return _on_array(path, item)
    if operator in TEXT_MATCHES:
        if not is_textual(path.type):
            raise _refused(path, item, "the column is not text")
        return TEXT_MATCHES[operator](attribute, _text(path, item))
    if isinstance(path.type, JSON):
        raise _refused(path, item, "name a key inside the JSON column, as in 'column.key'")
    if operator in {_Op.IN, _Op.NOT_IN}:
        return _membership(
            attribute, [coerce(path.shape, path.name, part) for part in _values(path, item)], item
        )
    if operator is _Op.BETWEEN:
        low, high = (coerce(path.shape, path.name, part) for part in _bounds(path, item))
        return attribute.between(orderable(low), orderable(high))
    if value is None:
        return _against_null(attribute, path, item)
    return _COMPARISONS[operator](attribute, coerce(path.shape, path.name, value))


def _null_check(column: Any, item: QueryFilter, model: str) -> ColumnElement[bool]:
    if item.value not in (None, True, False):
        raise ValidationError(
            f"{model}.{item.field}: {item.operator} takes no value (or true or false).",
            model=model,
            field=item.field,
        )
    is_null = (item.operator is _Op.IS_NULL) != (item.value is False)
    clause: ColumnElement[bool] = column.is_(None) if is_null else column.is_not(None)
    return clause


def _against_null(column: Any, path: FieldPath, item: QueryFilter) -> ColumnElement[bool]:
    clauses: dict[FilterOperator, ColumnElement[bool]] = {
        _Op.EQ: column.is_(None),
        _Op.NE: column.is_not(None),
    }
    if item.operator in clauses:
        return clauses[item.operator]
    raise _refused(path, item, "nothing compares with None; use is_null or is_not_null")


def _membership(column: Any, values: list[Any], item: QueryFilter) -> ColumnElement[bool]:
    known = [value for value in values if value is not None]
    if item.operator is _Op.IN:
        clause = column.in_(known) if known else false()
        return clause if len(known) == len(values) else or_(clause, column.is_(None))
    clause = column.not_in(known) if known else true()
    return clause if len(known) == len(values) else and_(clause, column.is_not(None))


def _values(path: FieldPath, item: QueryFilter) -> list[Any]:
    if not isinstance(item.value, list | tuple | set | frozenset):
        raise _refused(path, item, "the value must be a list")
    if len(item.value) > _MAX_IN_VALUES:
        raise _refused(path, item, f"at most {_MAX_IN_VALUES} values")
    return list(item.value)


def _bounds(path: FieldPath, item: QueryFilter) -> list[Any]:
    if not isinstance(item.value, list | tuple) or len(item.value) != 2 or None in item.value:  # noqa: PLR2004
        raise _refused(path, item, "the value must be a pair [low, high]")
    return list(item.value)


def _text(path: FieldPath, item: QueryFilter) -> str:
    value = coerce(path.shape, path.name, item.value)
    if not isinstance(value, str):
        raise _refused(path, item, "the value must be text")
    return value


def _on_array(path: FieldPath, item: QueryFilter) -> ColumnElement[bool]:
    attribute = path.attribute
    if not isinstance(path.type, ARRAY):
        raise _refused(path, item, "the column is not an array")
    value = item.value if isinstance(item.value, list | tuple | set | frozenset) else [item.value]
    wanted = coerce(path.shape, path.name, list(value))
    # The generic ARRAY type refuses both; the operators are PostgreSQL's (manual 9.19).
    return attribute.op("@>" if item.operator is _Op.ARRAY_CONTAINS else "<@", is_comparison=True)(wanted)


def _on_json(path: FieldPath, item: QueryFilter) -> ColumnElement[bool]:
    element = path.attribute[path.json_path]
    if item.operator in {_Op.IS_NULL, _Op.IS_NOT_NULL}:
        return _null_check(element.as_string(), item, path.shape.name)
    if item.operator in {_Op.IN, _Op.NOT_IN}:
        values = _values(path, item)
        return _membership(_json_as(element, values[0] if values else "", path, item), values, item)
    if item.operator is _Op.BETWEEN:
        low, high = _bounds(path, item)
        between: ColumnElement[bool] = _json_as(element, low, path, item).between(low, high)
        return between
    if item.value is None:
        return _against_null(element.as_string(), path, item)
    column = _json_as(element, item.value, path, item)
    if item.operator in TEXT_MATCHES and isinstance(item.value, str):
        return TEXT_MATCHES[item.operator](column, item.value)
    if item.operator in _COMPARISONS:
        return _COMPARISONS[item.operator](column, item.value)
    raise _refused(path, item, "it does not apply to JSON")


def _json_as(element: Any, value: Any, path: FieldPath, item: QueryFilter) -> Any:
    if isinstance(value, bool):
        # SQLAlchemy's expression for MySQL takes what is missing for false.
        return case((element.as_string().is_(None), null()), else_=element.as_boolean())
    if isinstance(value, int):
        return element.as_integer()
    if isinstance(value, float):
        return element.as_float()
    if isinstance(value, str):
        return element.as_string()
    raise _refused(path, item, "a JSON value is compared with text, a number or a boolean")


def _refused(path: FieldPath, item: QueryFilter, why: str) -> ValidationError:
    return ValidationError(
        f"{path.shape.name}.{item.field} cannot be filtered by {item.operator.value}: {why}.",
        model=path.shape.name,
        field=item.field,
    )
