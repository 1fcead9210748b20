"""Filters, sorts and pages from the query string: a dependency with declared fields, visible in OpenAPI."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError

from dotmac.database.fastapi._query_parameters import (
    LISTS,
    NULL_CHECKS,
    PAGING,
    QueryParameters,
)
from dotmac.database.models import describe, python_type_of
from dotmac.database.query import MAX_PER_PAGE, CountMode, FilterOperator, QueryOptions, SortField
from dotmac.database.query._fields import resolve_field

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dotmac.database.models import ModelShape

_Schema = dict[str, Any]
_STRING: _Schema = {"type": "string"}
_TEXT_OPERATORS = frozenset(
    {
        FilterOperator.LIKE,
        FilterOperator.ILIKE,
        FilterOperator.CONTAINS,
        FilterOperator.ICONTAINS,
        FilterOperator.STARTS_WITH,
        FilterOperator.ENDS_WITH,
    }
)
_BY_NAME_ONLY = (FilterOperator.EQ, FilterOperator.IN)


def query_options(
    filterable: Mapping[str, Iterable[FilterOperator | str]] | Iterable[str] = (),
    sortable: Iterable[str] = (),
    *,
    model: type[Any] | None = None,
    per_page: int = 20,
    max_per_page: int = 100,
    count: CountMode = CountMode.EXACT,
    default_sort: Iterable[SortField] = (),
    also: Iterable[str] = (),
) -> Callable[..., Coroutine[Any, Any, QueryOptions]]:
    """A dependency that gives `QueryOptions` from the query string, and answers anything undeclared with 422.

    ``?status=open&created_at__gte=2024-01-01&status__in=a,b&sort=-created_at,title&page=2&per_page=20``, and by cursor
    ``?cursor=…&limit=…``. A parameter is a field, or a field, two underscores and an operator. Lists are separated by
    commas. ``page`` and ``cursor`` exclude each other; with neither, it is page 1.

    Args:
        filterable: Fields with the operators each may be filtered by, or only names: those get ``EQ`` and ``IN``.
        sortable: Fields that ``sort`` may name.
        model: The mapped class. Its fields are checked here, values before the endpoint runs, and the documentation
            shows their types. Without it, values are first looked at by the repository: then add
            `install_error_handlers`.
        per_page: Rows of a page where the request does not say.
        max_per_page: The most a request may ask for.
        count: How page totals are found.
        default_sort: The order where the request does not say.
        also: Other parameters the route accepts. Those that FastAPI knows of are accepted anyway.

    Raises:
        ValueError: A declaration contradicts itself, or names a parameter that has another meaning.
        ValidationError: ``model`` has no such field.
    """
    if not 1 <= per_page <= max_per_page <= MAX_PER_PAGE:
        raise ValueError(
            f"1 <= per_page ({per_page}) <= max_per_page ({max_per_page}) <= {MAX_PER_PAGE} must hold."
        )
    shape = None if model is None else describe(model)
    declared = QueryParameters(
        filters=_named(filterable),
        sortable=tuple(dict.fromkeys(sortable)),
        shape=shape,
        per_page=per_page,
        max_per_page=max_per_page,
        count=count,
        default_sort=tuple(default_sort),
    )
    if shape is not None:
        for name in declared.sortable:
            resolve_field(shape, name)
    others = frozenset(also)

    async def options(request: Request, **_documented: Any) -> QueryOptions:
        found, problems = declared.parse(
            request.query_params.multi_items(), others | _declared_elsewhere(request, options)
        )
        if problems:
            raise RequestValidationError(problems)
        return found

    options.__signature__ = _signature(declared)  # type: ignore[attr-defined]
    return options


def _named(
    filterable: Mapping[str, Iterable[FilterOperator | str]] | Iterable[str],
) -> dict[str, tuple[str, FilterOperator]]:
    if isinstance(filterable, str):
        raise TypeError(
            "filterable is a mapping of fields to operators, or a collection of names, not a string."
        )
    operators = filterable if isinstance(filterable, Mapping) else dict.fromkeys(filterable, _BY_NAME_ONLY)
    names: dict[str, tuple[str, FilterOperator]] = {}
    for field, allowed in operators.items():
        if isinstance(allowed, str):
            raise TypeError(f"The operators of {field!r} are a collection, not the string {allowed!r}.")
        for operator in map(FilterOperator, allowed):
            name = field if operator is FilterOperator.EQ else f"{field}__{operator}"
            if name in PAGING or name in names:
                raise ValueError(
                    f"The parameter {name!r} has another meaning already; leave the field {field!r} out."
                )
            names[name] = (field, operator)
    return names


def _declared_elsewhere(request: Request, own: object) -> frozenset[str]:
    """Query parameters that the route itself, and its other dependencies, declare."""
    scope = request.scope
    contexts = [scope.get("route"), scope.get("fastapi", {}).get("effective_route_context")]
    found = [getattr(context, "dependant", None) for context in contexts]
    return frozenset(
        name for dependant in found if dependant is not None for name in _names_in(dependant, own)
    )


def _names_in(dependant: Any, own: object) -> Iterator[str]:
    if dependant.call is own:
        return
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            for name, part in annotation.model_fields.items():
                yield part.alias or name
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _names_in(dependency, own)


def _signature(declared: QueryParameters) -> inspect.Signature:
    """What FastAPI documents. Values arrive as text: all judging is done in one place, by `QueryParameters`."""
    number: _Schema = {"type": "integer", "minimum": 1}
    documented: list[tuple[str, _Schema, str]] = [
        (name, _schema(declared.shape, field, operator), _meaning(field, operator))
        for name, (field, operator) in declared.filters.items()
    ]
    if declared.sortable:
        which = ", ".join(declared.sortable)
        documented.append(("sort", _STRING, f"Comma-separated; a minus sign is descending. Any of: {which}."))
    most: _Schema = {**number, "maximum": declared.max_per_page, "default": declared.per_page}
    documented += [
        ("page", {**number, "default": 1}, "Page by number."),
        ("per_page", most, "Rows of a page."),
        ("cursor", _STRING, "Page by cursor: `next_cursor` or `prev_cursor` of another page."),
        ("limit", most, "Rows of a page by cursor."),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("request", keyword, annotation=Request)]
    for position, (name, schema, description) in enumerate(documented):
        annotation = Annotated[
            str | None, pydantic.WithJsonSchema(schema), Query(alias=name, description=description)
        ]
        parameters.append(inspect.Parameter(f"p{position}", keyword, default=None, annotation=annotation))
    return inspect.Signature(parameters)


def _meaning(field: str, operator: FilterOperator) -> str:
    comma = " (comma-separated)" if operator in LISTS else ""
    return f"`{field}` {operator.replace('_', ' ')}{comma}."


def _schema(shape: ModelShape | None, field: str, operator: FilterOperator) -> _Schema:
    path = None if shape is None else resolve_field(shape, field)
    if operator in NULL_CHECKS:
        return {"type": "boolean"}
    if path is None or path.json_path or operator in LISTS or operator in _TEXT_OPERATORS:
        return _STRING
    python_type: Any = getattr(path.attribute.type, "enum_class", None) or python_type_of(path.attribute.type)
    try:
        schema = pydantic.TypeAdapter(python_type).json_schema()
    except pydantic.PydanticUserError:
        return _STRING
    enums = getattr(path.attribute.type, "enums", None)
    return {"type": "string", "enum": list(enums)} if enums and "enum" not in schema else schema
