"""Models in and out: which classes a cache may rebuild, and from what.

Stored bytes name a class, and only classes given to the cache are ever made from them: nothing is imported by name.
"""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel as PydanticModel
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from dotmac.database.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class ModelForm(Protocol):
    """How values of one class are taken apart and put together."""

    def take_apart(self, value: Any) -> Any:
        """What is stored of ``value``."""
        ...

    def put_together(self, stored: Any) -> Any:
        """The inverse of `take_apart`."""
        ...

    def shape(self) -> str:
        """Text that changes when the class does."""
        ...

    def parts(self) -> Iterable[type[Any]]:
        """Classes that values of this one may hold."""
        ...


class _MappedForm:
    """A SQLAlchemy or SQLModel entity by its columns; what comes out is detached, as if loaded and expunged."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self._mapper = mapper
        self._names = tuple(attribute.key for attribute in mapper.column_attrs)

    def take_apart(self, value: Any) -> dict[str, Any]:
        state = sa_inspect(value)
        loaded = state.dict
        missing = [name for name in self._names if name not in loaded]
        if missing:
            raise ValidationError(
                f"{self._mapper.class_.__name__} cannot be cached: not loaded are {', '.join(missing)}, and "
                f"caching loads nothing. Flush or refresh it first, or cache its to_dict().",
                model=self._mapper.class_.__name__,
                field=missing[0],
            )
        return {name: loaded[name] for name in self._names}

    def put_together(self, stored: Mapping[str, Any]) -> Any:
        value = self._mapper.class_manager.new_instance()
        for name in self._names:
            set_committed_value(value, name, stored[name])
        make_transient_to_detached(value)
        for name in self._names:  # the step before expires what it does not find loaded
            set_committed_value(value, name, stored[name])
        return value

    def shape(self) -> str:
        return ",".join(
            f"{attribute.key}:{attribute.columns[0].type!r}" for attribute in self._mapper.column_attrs
        )

    def parts(self) -> Iterable[type[Any]]:
        for attribute in self._mapper.column_attrs:
            enum = getattr(attribute.columns[0].type, "enum_class", None)
            if enum is not None:
                yield enum


class _PydanticForm:
    def __init__(self, model: type[PydanticModel]) -> None:
        self._model = model
        self._names = tuple(model.model_fields)

    def take_apart(self, value: PydanticModel) -> dict[str, Any]:
        stored: dict[str, Any] = {name: getattr(value, name) for name in self._names}
        return {
            "values": stored,
            "set": sorted(value.model_fields_set),
            "extra": value.model_extra,
            "private": value.__pydantic_private__,
        }

    def put_together(self, stored: Mapping[str, Any]) -> PydanticModel:
        # The codec restores types exactly, so nothing is validated, and no validator or hook with side effects runs: as
        # when pydantic itself copies or unpickles a model.
        model = self._model.__new__(self._model)
        values, extra, private = stored["values"], stored["extra"], stored["private"]
        state = {
            "__dict__": {name: values[name] for name in self._names},
            "__pydantic_fields_set__": set(stored["set"]),
            "__pydantic_extra__": None if extra is None else dict(extra),
            "__pydantic_private__": None if private is None else dict(private),
        }
        for name, content in state.items():
            object.__setattr__(model, name, content)
        return model

    def shape(self) -> str:
        return ",".join(f"{name}:{field.annotation!r}" for name, field in self._model.model_fields.items())

    def parts(self) -> Iterable[type[Any]]:
        for field in self._model.model_fields.values():
            yield from classes_in(field.annotation)


class _DataclassForm:
    def __init__(self, model: type[Any]) -> None:
        self._model = model
        self._fields = dataclasses.fields(model)

    def take_apart(self, value: Any) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in self._fields}

    def put_together(self, stored: Mapping[str, Any]) -> Any:
        value = object.__new__(self._model)
        for field in self._fields:
            object.__setattr__(value, field.name, stored[field.name])
        return value

    def shape(self) -> str:
        return ",".join(f"{field.name}:{field.type!r}" for field in self._fields)

    def parts(self) -> Iterable[type[Any]]:
        try:
            hints = typing.get_type_hints(self._model)
        except NameError:  # names that exist for type checkers only
            return
        for field in self._fields:
            yield from classes_in(hints.get(field.name))


class _EnumForm:
    def __init__(self, model: type[Enum]) -> None:
        self._model = model

    def take_apart(self, value: Enum) -> str:
        return value.name

    def put_together(self, stored: str) -> Enum:
        return self._model[stored]

    def shape(self) -> str:
        return ",".join(self._model.__members__)

    def parts(self) -> Iterable[type[Any]]:
        return ()


class Models:
    """The classes that a cache takes and gives back, each under its name.

    Classes that fields of a given class are annotated with come along by themselves.
    """

    def __init__(self, given: Iterable[type[Any]] = ()) -> None:
        self._by_class: dict[type[Any], tuple[str, ModelForm]] = {}
        self._by_name: dict[str, ModelForm] = {}
        for model in given:
            form = form_of(model)
            if form is None:
                raise TypeError(
                    f"{model!r} is not a model that can be cached: give pydantic, SQLModel, SQLAlchemy, dataclass or "
                    f"Enum classes."
                )
            self._add(model, form)

    def _add(self, model: type[Any], form: ModelForm) -> None:
        if model in self._by_class:
            return
        name = model.__name__ if model.__name__ not in self._by_name else _full_name(model)
        if name in self._by_name:
            raise TypeError(f"Two models are named {name}: their cached values could not be told apart.")
        self._by_class[model] = (name, form)
        self._by_name[name] = form
        for part in form.parts():
            part_form = form_of(part)
            if part_form is not None:
                self._add(part, part_form)

    def find(self, model: type[Any]) -> tuple[str, ModelForm] | None:
        """Name and form of a class that was given."""
        return self._by_class.get(model)

    def named(self, name: str) -> ModelForm:
        """The form of that name; KeyError for any other."""
        return self._by_name[name]

    def shape(self) -> bytes:
        """Bytes that change when a class changes."""
        text = ";".join(f"{name}({form.shape()})" for name, form in sorted(self._by_name.items()))
        return blake2b(text.encode(), digest_size=8).digest() if text else b""


def form_of(model: Any) -> ModelForm | None:
    """How values of ``model`` are stored, or None for a class that is no model."""
    if not isinstance(model, type):
        return None
    try:
        mapper: Any = sa_inspect(model, raiseerr=False)
    except NoInspectionAvailable:
        mapper = None
    if isinstance(mapper, Mapper):
        return _MappedForm(mapper)
    if issubclass(model, PydanticModel):
        return _PydanticForm(model)
    if issubclass(model, Enum):
        return _EnumForm(model)
    if dataclasses.is_dataclass(model):
        return _DataclassForm(model)
    return None


def classes_in(annotation: Any) -> Iterable[type[Any]]:
    """Every class that an annotation names."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from classes_in(argument)


def _full_name(model: type[Any]) -> str:
    return f"{model.__module__}.{model.__qualname__}"
