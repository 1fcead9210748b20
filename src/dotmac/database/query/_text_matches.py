"""Text that matches a pattern or holds another text, with regard to case exactly where the operator says so.

LIKE in SQLite never minds case and has no escape character of its own; GLOB minds it
(https://www.sqlite.org/lang_expr.html#like). MySQL compares by the column's collation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, String, func, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dotmac.database.query._options import FilterOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.compiler import SQLCompiler


class _Matches(FunctionElement[bool]):
    """A LIKE, and the GLOB that says the same: a column and a pattern."""

    name = "matches"
    type = Boolean()
    inherit_cache = True


@compiles(_Matches)
def _as_like(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    like, _column, _glob = element.clauses
    return f"({compiler.process(like, **options)})"


@compiles(_Matches, "sqlite")
def _as_glob(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    _like, column, glob = element.clauses
    return f"({compiler.process(column, **options)} GLOB {compiler.process(glob, **options)})"


def _matches(
    like: ColumnElement[bool], column: Any, glob: str, *, folded: bool = False
) -> ColumnElement[bool]:
    pattern: ColumnElement[str] = literal(glob, String())
    if folded:
        column, pattern = func.lower(column), func.lower(pattern)
    return _Matches(like, column, pattern)


def _literally(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _from_like(pattern: str) -> str:
    parts, characters = [], iter(pattern)
    for character in characters:
        if character == "\\":
            parts.append(_literally(next(characters, character)))
        else:
            parts.append({"%": "*", "_": "?"}.get(character) or _literally(character))
    return "".join(parts)


def _like(column: Any, text: str) -> ColumnElement[bool]:
    if "%" not in text:
        return _contains(column, text)
    return _matches(column.like(text), column, _from_like(text))


def _ilike(column: Any, text: str) -> ColumnElement[bool]:
    if "%" not in text:
        return _icontains(column, text)
    return _matches(column.ilike(text), column, _from_like(text), folded=True)


def _contains(column: Any, text: str) -> ColumnElement[bool]:
    return _matches(column.contains(text, autoescape=True), column, f"*{_literally(text)}*")


def _icontains(column: Any, text: str) -> ColumnElement[bool]:
    return _matches(column.icontains(text, autoescape=True), column, f"*{_literally(text)}*", folded=True)


def _starts_with(column: Any, text: str) -> ColumnElement[bool]:
    return _matches(column.startswith(text, autoescape=True), column, f"{_literally(text)}*")


def _ends_with(column: Any, text: str) -> ColumnElement[bool]:
    return _matches(column.endswith(text, autoescape=True), column, f"*{_literally(text)}")


TEXT_MATCHES: dict[FilterOperator, Callable[[Any, str], ColumnElement[bool]]] = {
    FilterOperator.LIKE: _like,
    FilterOperator.ILIKE: _ilike,
    FilterOperator.CONTAINS: _contains,
    FilterOperator.ICONTAINS: _icontains,
    FilterOperator.STARTS_WITH: _starts_with,
    FilterOperator.ENDS_WITH: _ends_with,
}
"""The condition for each operator that looks into text."""
