"""Attacks by objects and their keys: identity map, refresh, expired and detached objects, merge (5-7, 10, 11, 15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect as sa_inspect
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from dotmac.database.context import RequestContext, use_context
from dotmac.database.testing.isolation._attack import NotApplicableError, attack, loaded_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.testing.isolation._attack import Stage


@attack(5)
def get_by_foreign_key(stage: Stage) -> Any:
    return [stage.session.get(stage.model, stage.subject.key_of(stage.subject.theirs))]


@attack(5)
def get_after_a_tenant_switch(stage: Stage) -> Iterator[Any]:
    key = stage.subject.key_of(stage.subject.theirs)
    stage.session.get(
        stage.model, stage.subject.key_of(stage.subject.mine)
    )  # a plain session is bound by its first use
    with use_context(RequestContext(tenant_id=stage.subject.other)):
        stage.session.get(stage.model, key)
    yield stage.session.get(stage.model, key)


@attack(5)
def get_with_populate_existing(stage: Stage) -> Any:
    key = stage.subject.key_of(stage.subject.theirs)
    return [stage.session.get(stage.model, key, populate_existing=True)]


@attack(5)
def get_for_update(stage: Stage) -> Any:
    return [stage.session.get(stage.model, stage.subject.key_of(stage.subject.theirs), with_for_update=True)]


@attack(5)
def get_one(stage: Stage) -> Any:
    return [stage.session.get_one(stage.model, stage.subject.key_of(stage.subject.theirs))]


@attack(6)
def refresh_of_a_foreign_object(stage: Stage) -> Iterator[Any]:
    entity = stage.foreign()
    stage.session.add(entity)
    stage.session.refresh(entity)
    yield loaded_values(entity)


@attack(6)
def refresh_of_one_attribute(stage: Stage) -> Iterator[Any]:
    entity = stage.foreign()
    stage.session.add(entity)
    stage.session.refresh(entity, [stage.subject.secret_key])
    yield loaded_values(entity)


@attack(7)
def reload_of_an_expired_attribute(stage: Stage) -> Iterator[Any]:
    entity = stage.foreign()
    stage.session.add(entity)
    stage.session.expire(entity)
    yield getattr(entity, stage.subject.secret_key)


@attack(7)
def load_of_an_attribute_that_was_never_loaded(stage: Stage) -> Iterator[Any]:
    entity = stage.foreign()
    stage.session.add(entity)
    yield getattr(entity, stage.subject.secret_key)


@attack(7)
def reload_after_commit(stage: Stage) -> Iterator[Any]:
    entity = stage.foreign()
    stage.session.add(entity)
    stage.session.commit()
    stage.session.expire_all()
    yield getattr(entity, stage.subject.secret_key)


@attack(10)
def flush_of_a_reattached_object(stage: Stage) -> None:
    stage.session.add(stage.foreign(**{stage.subject.secret_key: "taken"}))
    stage.session.flush()


@attack(10)
def flush_of_a_reattached_object_that_claims_to_be_own(stage: Stage) -> None:
    subject = stage.subject
    theirs = {**subject.theirs}
    if subject.tenant_column.primary_key:
        raise NotApplicableError("its key carries the tenant")
    theirs[subject.tenant_column] = subject.tenant
    entity = subject.detached(theirs, **{subject.secret_key: "taken"})
    stage.session.add(entity)
    stage.session.flush()


@attack(11)
def delete_of_a_detached_object(stage: Stage) -> None:
    stage.session.delete(stage.foreign())
    stage.session.flush()


@attack(11)
def delete_of_an_attached_object(stage: Stage) -> None:
    entity = stage.foreign()
    stage.session.add(entity)
    stage.session.delete(entity)
    stage.session.commit()


@attack(15)
def merge_of_a_foreign_key(stage: Stage) -> Iterator[Any]:
    merged = stage.session.merge(stage.foreign())
    yield loaded_values(merged).get(stage.subject.secret_key)


@attack(15)
def merge_that_changes(stage: Stage) -> None:
    stage.session.merge(stage.foreign(**{stage.subject.secret_key: "taken"}))
    stage.session.flush()


@attack(15)
def merge_without_load(stage: Stage) -> Iterator[Any]:
    merged = stage.session.merge(stage.foreign(), load=False)
    yield getattr(merged, stage.subject.secret_key)


@attack(15)
def merge_tells_of_a_foreign_key(stage: Stage) -> Any:
    """A key that another tenant has taken must not be told from one that nobody has."""
    subject = stage.subject
    keys = [column for column in subject.mapper.primary_key if column is not subject.tenant_column]
    if not subject.tenant_column.primary_key and not subject.tries_unsafe_keys:
        raise NotApplicableError("its key is unique over all tenants, which shows: see TenantModel")
    row = subject.fresh(subject.tenant)
    row.update({column: subject.theirs[column] for column in keys})
    entity = stage.model(**subject.attributes(row))
    try:
        stage.session.merge(entity)
        stage.session.flush()
    except IntegrityError:
        return stage.exists(True)  # noqa: FBT003
    return []


@attack(5)
def identity_map_holds_only_own_rows(stage: Stage) -> Any:
    found = stage.session.scalars(select(stage.model)).all()  # the map would let go of what nobody holds
    return [*found, *(loaded_values(entity) for entity in stage.session if sa_inspect(entity).persistent)]
