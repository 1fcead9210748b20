"""What a project calls its metadata (a Base, a registry, SQLModel, several of them) as what Alembic wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, registry

MetadataSource: TypeAlias = MetaData | registry | type[DeclarativeBase] | type[Any]


def collect_metadata(target: MetadataSource | Iterable[MetadataSource] | None) -> list[MetaData]:
    """The `MetaData` behind each source, in order, each once; empty for None.

    A source is a `MetaData`, a class that has one (a ``DeclarativeBase``, ``SQLModel``), or a ``registry`` of
    imperative mappings.

    Raises:
        TypeError: A source has no metadata.
    """
    if target is None:
        return []
    found: list[MetaData] = []
    for source in _sources(target):
        metadata = source if isinstance(source, MetaData) else getattr(source, "metadata", None)
        if not isinstance(metadata, MetaData):
            raise TypeError(
                f"target_metadata must be a MetaData, a declarative base, SQLModel, a registry, or a sequence of "
                f"these; {_called(source)} has no metadata."
            )
        if not any(metadata is known for known in found):
            found.append(metadata)
    return found


def _sources(target: Any) -> list[Any]:
    # A mapped class or an Enum class can be iterable too, so metadata is asked for first.
    if (
        isinstance(target, (MetaData, str, type))
        or hasattr(target, "metadata")
        or not isinstance(target, Iterable)
    ):
        return [target]
    return list(target)


def _called(source: object) -> str:
    return source.__qualname__ if isinstance(source, type) else f"a {type(source).__qualname__}"
