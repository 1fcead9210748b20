"""Attacks by relationships whose other end is another tenant's (8, 18, 20, 49)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    RelationshipProperty,
    aliased,
    contains_eager,
    immediateload,
    joinedload,
    selectinload,
    subqueryload,
)

from dotmac.database.context import RequestContext, use_context
from dotmac.database.tenancy import tenancy_of
from dotmac.database.testing.isolation._attack import Leak, NotApplicableError, attack, loaded_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from dotmac.database.testing.isolation._attack import Stage
    from dotmac.database.testing.isolation._subject import Row, Subject


def _relations(subject: Subject, *, secondary: bool) -> list[RelationshipProperty[Any]]:
    return [
        relation
        for relation in subject.mapper.relationships
        if (relation.secondary is not None) == secondary
        and isinstance(relation.mapper.local_table, Table)
        and tenancy_of(relation.mapper.local_table).is_divided
    ]


def plant_references(connection: Connection, subject: Subject) -> None:
    """Let own rows refer to foreign ones, and foreign ones to own ones, wherever the keys allow it."""
    planted = 0
    for relation in _relations(subject, secondary=False):
        for ours, theirs in relation.synchronize_pairs:
            # The pairs lead from the side that is referred to.
            referred, referring = ours, theirs
            if tenancy_of(referring.table).column is referring or referring.primary_key:
                continue
            if _carries_tenant(referring.table, referring):
                continue
            planted += _refer(connection, subject, referring, referred)
    if not planted:
        raise NotApplicableError("no reference of its can lead to another tenant's row")


def _carries_tenant(table: Table, column: Any) -> bool:
    tenant = tenancy_of(table).column
    return tenant is not None and any(
        constraint.columns.contains_column(tenant) and constraint.columns.contains_column(column)
        for constraint in table.foreign_key_constraints
    )


def _refer(connection: Connection, subject: Subject, referring: Any, referred: Any) -> int:
    table, target = referring.table, referred.table
    done = 0
    for holder, owner in ((subject.tenant, subject.other), (subject.other, subject.tenant)):
        value = _some(connection, target, referred, owner, subject)
        key = _some_key(connection, table, holder, subject)
        if value is not None and key is not None:
            connection.execute(update(table).where(key).values({referring: value}))
            done += 1
    return done


def _some(connection: Connection, table: Table, column: Any, tenant: str, subject: Subject) -> Any:
    if table in subject.mapper.tables:
        rows: list[Row] = subject.own_rows if tenant == subject.tenant else subject.foreign_rows
        return rows[0][column]
    owner = tenancy_of(table).column
    return None if owner is None else connection.scalar(select(column).where(owner == tenant).limit(1))


def _some_key(connection: Connection, table: Table, tenant: str, subject: Subject) -> Any:
    if table in subject.mapper.tables:
        rows = subject.own_rows if tenant == subject.tenant else subject.foreign_rows
        return subject.where(rows[0], table)
    owner = tenancy_of(table).column
    if owner is None:
        return None
    [key, *more] = table.primary_key.columns
    value = connection.scalar(select(key).where(owner == tenant).limit(1))
    return None if more or value is None else key == value


def plant_links(connection: Connection, subject: Subject) -> None:
    """Link an own row to foreign ones by every table of links that allows it."""
    planted = 0
    for relation in _relations(subject, secondary=True):
        link = relation.secondary
        if not isinstance(link, Table) or tenancy_of(link).column is not None:
            continue
        values = {to: subject.mine[ours] for ours, to in relation.synchronize_pairs}
        for theirs, to in relation.secondary_synchronize_pairs or ():
            owner = tenancy_of(theirs.table).column
            if owner is not None:
                values[to] = connection.scalar(select(theirs).where(owner == subject.other).limit(1))
        if all(value is not None for value in values.values()):
            connection.execute(insert(link).values({column.key: value for column, value in values.items()}))
            planted += 1
    if not planted:
        raise NotApplicableError("it has no table of links without the tenant")


def _related(entity: Any, relations: list[RelationshipProperty[Any]]) -> Iterator[Any]:
    for relation in relations:
        found = getattr(entity, relation.key)
        many = found if relation.uselist else [found]
        yield from (loaded_values(other) for other in many if other is not None)


def _loaded(stage: Stage, option: Callable[[Any], Any] | None, *, secondary: bool) -> Iterator[Any]:
    relations = _relations(stage.subject, secondary=secondary)
    if not relations:
        raise NotApplicableError("it has no such relationship to rows of tenants")
    query = select(stage.model)
    if option is not None:
        query = query.options(*(option(getattr(stage.model, relation.key)) for relation in relations))
    for entity in stage.session.scalars(query).unique().all():
        yield from _related(entity, relations)


@attack(8, plant=plant_references)
def lazy_load(stage: Stage) -> Any:
    return _loaded(stage, None, secondary=False)


@attack(8, plant=plant_references)
def lazy_load_after_the_context_changed(stage: Stage) -> Iterator[Any]:
    relations = _relations(stage.subject, secondary=False)
    entities = stage.session.scalars(select(stage.model)).unique().all()
    with use_context(RequestContext(tenant_id=stage.subject.other)):
        for entity in entities:
            stage.session.expire(entity, [relation.key for relation in relations])
            yield from _related(entity, relations)


@attack(8, plant=plant_references)
def lazy_load_after_commit(stage: Stage) -> Iterator[Any]:
    relations = _relations(stage.subject, secondary=False)
    entities = stage.session.scalars(select(stage.model)).unique().all()
    stage.session.commit()
    stage.session.expire_all()
    for entity in entities:
        yield from _related(entity, relations)


@attack(8, plant=plant_references)
def selectin_load(stage: Stage) -> Any:
    return _loaded(stage, selectinload, secondary=False)


@attack(8, plant=plant_references)
def subquery_load(stage: Stage) -> Any:
    return _loaded(stage, subqueryload, secondary=False)


@attack(8, plant=plant_references)
def immediate_load(stage: Stage) -> Any:
    return _loaded(stage, immediateload, secondary=False)


@attack(18, plant=plant_references)
def joined_load(stage: Stage) -> Any:
    return _loaded(stage, joinedload, secondary=False)


@attack(18, plant=plant_references)
def join_along_a_relationship(stage: Stage) -> Iterator[Any]:
    for relation in _relations(stage.subject, secondary=False):
        target = aliased(relation.mapper.class_)
        query = (
            select(target)
            .select_from(stage.model)
            .join(target, getattr(stage.model, relation.key).of_type(target))
        )
        yield from (loaded_values(entity) for entity in stage.session.scalars(query).unique().all())


@attack(18, plant=plant_references)
def outer_join_with_contains_eager(stage: Stage) -> Iterator[Any]:
    relations = _relations(stage.subject, secondary=False)
    for relation in relations:
        attribute = getattr(stage.model, relation.key)
        target = aliased(relation.mapper.class_)
        query = (
            select(stage.model)
            .outerjoin(attribute.of_type(target))
            .options(contains_eager(attribute.of_type(target)))
            .execution_options(populate_existing=True)
        )
        for entity in stage.session.scalars(query).unique().all():
            yield from _related(entity, [relation])


@attack(18, plant=plant_references)
def filter_by_a_related_row(stage: Stage) -> Iterator[Any]:
    for relation in _relations(stage.subject, secondary=False):
        attribute = getattr(stage.model, relation.key)
        other = relation.mapper
        tenant = tenancy_of(other.local_table).column  # type: ignore[arg-type] # tables only: see _relations
        if tenant is None:
            continue
        foreign = getattr(other.class_, other.get_property_by_column(tenant).key) == stage.subject.other
        query = select(stage.model).where(
            attribute.any(foreign) if relation.uselist else attribute.has(foreign)
        )
        if stage.session.scalars(query).first() is not None:
            yield Leak("found own rows by what foreign rows hold")


@attack(20, plant=plant_links)
def many_to_many_lazy(stage: Stage) -> Any:
    return _loaded(stage, None, secondary=True)


@attack(20, plant=plant_links)
def many_to_many_joined(stage: Stage) -> Any:
    return _loaded(stage, joinedload, secondary=True)


@attack(20, plant=plant_links)
def many_to_many_selectin(stage: Stage) -> Any:
    return _loaded(stage, selectinload, secondary=True)


def _links(stage: Stage) -> list[tuple[RelationshipProperty[Any], Table]]:
    found = [
        (relation, relation.secondary)
        for relation in _relations(stage.subject, secondary=True)
        if isinstance(relation.secondary, Table)
    ]
    if not found:
        raise NotApplicableError("it has no table of links")
    return found


def plant_foreign_links(connection: Connection, subject: Subject) -> None:
    """Link a foreign row to foreign ones."""
    for relation in _relations(subject, secondary=True):
        link = relation.secondary
        if isinstance(link, Table) and tenancy_of(link).column is None:
            values = {to.key: subject.theirs[ours] for ours, to in relation.synchronize_pairs}
            values.update(_ends(connection, relation, subject.other))
            connection.execute(insert(link).values(values))


def _ends(connection: Connection, relation: RelationshipProperty[Any], tenant: str) -> dict[str, Any]:
    """Columns of a table of links, with a row of ``tenant`` to refer to."""
    found: dict[str, Any] = {}
    for theirs, to in relation.secondary_synchronize_pairs or ():
        owner = tenancy_of(theirs.table).column
        if owner is None:
            raise NotApplicableError("its links lead to rows that belong to nobody")
        found[str(to.key)] = connection.scalar(select(theirs).where(owner == tenant).limit(1))
    return found


@attack(20, plant=plant_foreign_links)
def link_rows_of_others(stage: Stage) -> Iterator[Any]:
    for _, link in _links(stage):
        for row in stage.session.execute(select(link)).all():
            if set(row) & set(stage.subject.key_of(stage.subject.theirs)):
                yield Leak("saw a link of another tenant's row")


@attack(20, plant=plant_foreign_links)
def unlink_rows_of_others(stage: Stage) -> None:
    for _, link in _links(stage):
        stage.session.execute(delete(link))


@attack(20)
def link_foreign_rows(stage: Stage) -> None:
    for relation, link in _links(stage):
        values = {to.key: stage.subject.theirs[ours] for ours, to in relation.synchronize_pairs}
        with stage.open(stage.subject.other) as session:
            values.update(_ends(session.connection(), relation, stage.subject.other))
        stage.session.execute(insert(link).values(values))


def _check_references(stage: Stage) -> None:
    if stage.dialect == "sqlite" and not stage.subject.tries_unsafe_keys:
        cursor: Any = stage.session.connection().connection.cursor()
        cursor.execute("PRAGMA foreign_keys")
        if not cursor.fetchone()[0]:
            raise NotApplicableError(
                "this SQLite checks no references: our engines let it, by PRAGMA foreign_keys"
            )


@attack(49)
def child_of_a_foreign_parent(stage: Stage) -> Any:
    """A reference that carries the tenant cannot lead to another tenant's row."""
    subject = stage.subject
    tenant = subject.tenant_column
    carrying = [
        constraint
        for constraint in stage.table.foreign_key_constraints
        if constraint.columns.contains_column(tenant)
    ]
    if not carrying:
        raise NotApplicableError("no reference of its carries the tenant: see tenant_foreign_key")
    _check_references(stage)
    row = subject.fresh(subject.tenant)
    for constraint in carrying:
        for column in constraint.columns:
            if column is not tenant:
                row[column] = subject.theirs[column]
    try:
        stage.session.add(stage.model(**subject.attributes(row)))
        stage.session.flush()
    except IntegrityError:
        return []
    return [Leak("a reference to another tenant's row was accepted")]


@attack(49)
def cascade_from_an_own_parent(stage: Stage) -> Any:
    """Another tenant's row that came to refer to an own one goes when that is deleted."""
    subject, tenant = stage.subject, stage.subject.tenant_column
    cascading = [
        constraint
        for constraint in stage.table.foreign_key_constraints
        if (constraint.ondelete or "").upper() == "CASCADE"
        and tenancy_of(constraint.referred_table).column is not None
    ]
    if not cascading:
        raise NotApplicableError("nothing that it refers to takes it along when deleted")
    _check_references(stage)
    found = []
    for constraint in cascading:
        parent = constraint.referred_table
        mine = {
            element.column: subject.mine[element.column if parent is stage.table else element.parent]
            for element in constraint.elements
        }
        child = subject.fresh(subject.other)
        for element in constraint.elements:
            if element.parent is not tenant:
                child[element.parent] = mine[element.column]
        with stage.open(subject.other) as session:
            session.execute(
                insert(stage.table).values({column.key: value for column, value in child.items()})
            )
            session.commit()
        stage.session.execute(delete(parent).where(*(column == value for column, value in mine.items())))
        stage.session.commit()
        with stage.open(subject.other) as session:
            key = [column == child[column] for column in stage.table.primary_key.columns]
            if session.scalar(select(func.count()).select_from(stage.table).where(*key)) != 1:
                found.append(Leak("deleted another tenant's row with an own one"))
    return found
