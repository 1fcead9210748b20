"""Attacks by writing: by key, in bulk, under another tenant's name, over conflicts (9, 12-14, 16, 50, 55)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, literal, literal_column, select, update
from sqlalchemy.exc import IntegrityError

from dotmac.database.testing.isolation._attack import NotApplicableError, attack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.testing.isolation._attack import Stage


def _by_key(stage: Stage, **changes: Any) -> dict[str, Any]:
    subject = stage.subject
    key = {
        subject.mapper.get_property_by_column(column).key: subject.theirs[column]
        for column in subject.mapper.primary_key
    }
    return {**key, subject.secret_key: "taken", **changes}


def _one_table(stage: Stage) -> None:
    if len(stage.subject.mapper.tables) > 1:
        raise NotApplicableError("its rows are spread over tables")


@attack(9)
def update_by_primary_key(stage: Stage) -> None:
    stage.session.execute(update(stage.model), [_by_key(stage)])


@attack(9)
def update_by_primary_key_of_own_and_foreign_rows(stage: Stage) -> None:
    subject = stage.subject
    own = {**_by_key(stage)}
    for column in subject.mapper.primary_key:
        own[subject.mapper.get_property_by_column(column).key] = subject.mine[column]
    stage.session.execute(update(stage.model), [own, _by_key(stage)])


@attack(9)
def bulk_update_mappings(stage: Stage) -> None:
    stage.session.bulk_update_mappings(stage.subject.mapper, [_by_key(stage)])


@attack(9)
def bulk_save_objects(stage: Stage) -> None:
    stage.session.bulk_save_objects([stage.foreign(**{stage.subject.secret_key: "taken"})])


@attack(9)
def core_update_of_many(stage: Stage) -> None:
    subject = stage.subject
    keys = list(stage.table.primary_key.columns)
    query = (
        update(stage.table)
        .where(*(column == bindparam(f"key_{column.name}") for column in keys))
        .values({subject.secret.key: bindparam("text_to_set")})
    )
    parameters = {f"key_{column.name}": subject.theirs[column] for column in keys}
    stage.session.connection().execute(query, [{**parameters, "text_to_set": "taken"}] * 2)


@attack(9)
def core_delete_of_many(stage: Stage) -> None:
    subject = stage.subject
    keys = list(stage.table.primary_key.columns)
    query = delete(stage.table).where(*(column == bindparam(f"key_{column.name}") for column in keys))
    parameters = {f"key_{column.name}": subject.theirs[column] for column in keys}
    stage.session.connection().execute(query, [parameters, parameters])


@attack(12)
def insert_for_another_tenant(stage: Stage) -> None:
    subject = stage.subject
    stage.session.add(stage.model(**subject.attributes(subject.fresh(subject.other))))
    stage.session.flush()


@attack(12)
def bulk_insert_for_another_tenant(stage: Stage) -> None:
    subject = stage.subject
    rows = [subject.attributes(subject.fresh(subject.other)) for _ in range(2)]
    stage.session.execute(insert(stage.model), rows)


@attack(12)
def bulk_insert_mappings(stage: Stage) -> None:
    subject = stage.subject
    stage.session.bulk_insert_mappings(subject.mapper, [subject.attributes(subject.fresh(subject.other))])


@attack(12)
def bulk_insert_own_and_foreign(stage: Stage) -> None:
    subject = stage.subject
    rows = [subject.attributes(subject.fresh(tenant)) for tenant in (subject.tenant, subject.other)]
    stage.session.execute(insert(stage.model), rows)


@attack(12)
def core_insert_for_another_tenant(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    stage.session.execute(insert(stage.table).values(subject.local(subject.fresh(subject.other))))


@attack(12)
def core_insert_of_many(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    rows = [subject.local(subject.fresh(tenant)) for tenant in (subject.tenant, subject.other)]
    stage.session.execute(insert(stage.table), rows)


@attack(12)
def core_insert_of_several_values(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    rows = [subject.local(subject.fresh(tenant)) for tenant in (subject.tenant, subject.other)]
    stage.session.execute(insert(stage.table).values(rows))


@attack(12)
def insert_on_the_sessions_connection(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    stage.session.connection().execute(insert(stage.table), subject.local(subject.fresh(subject.other)))


@attack(12)
def insert_with_the_tenant_as_sql(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    row = subject.local(subject.fresh(subject.other))
    row[subject.tenant_column.key] = literal_column(f"'{subject.other}'")
    stage.session.execute(insert(stage.table).values(row))


@attack(12)
def insert_with_the_tenant_as_subquery(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    row = subject.local(subject.fresh(subject.other))
    row[subject.tenant_column.key] = select(literal(subject.other)).scalar_subquery()
    stage.session.execute(insert(stage.table).values(row))


@attack(12)
def insert_in_cte(stage: Stage) -> Any:
    _one_table(stage)
    stage.only_on("postgresql")
    subject = stage.subject
    made = insert(stage.table).values(subject.local(subject.fresh(subject.other))).returning(subject.secret)
    stage.session.execute(select(made.cte("made")))


@attack(12)
def insert_hung_on_a_foreign_row(stage: Stage) -> None:
    """A row without a tenant column belongs to whom it hangs on."""
    subject = stage.subject
    if any(column.table is not stage.table for column in subject.mine):
        raise NotApplicableError("its rows are spread over tables")
    row = subject.fresh(subject.tenant)
    hung = [
        element.parent
        for constraint in stage.table.foreign_key_constraints
        for element in constraint.elements
        if element.parent in row and not element.parent.primary_key
    ]
    if not hung:
        raise NotApplicableError("it refers to nothing that it cannot do without")
    row.update({column: subject.theirs[column] for column in hung})
    stage.session.add(stage.model(**subject.attributes(row)))
    stage.session.flush()


@attack(13)
def insert_from_select(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    row = subject.local(subject.fresh(subject.tenant))
    names = list(row)
    source = stage.table.alias("source")
    secret = subject.secret
    picked = [
        source.c[secret.key] if name == secret.key else literal(row[name], stage.table.c[name].type)
        for name in names
    ]
    query = select(*picked).where(source.c[secret.key] == subject.theirs[secret])
    stage.session.execute(insert(stage.table).from_select(names, query))


@attack(13)
def insert_from_select_into_another_tenant(stage: Stage) -> None:
    _one_table(stage)
    subject = stage.subject
    row = subject.local(subject.fresh(subject.other))
    picked = [literal(value, stage.table.c[name].type) for name, value in row.items()]
    stage.session.execute(insert(stage.table).from_select(list(row), select(*picked)))


def _upsert(stage: Stage, row: dict[str, Any]) -> Any:
    secret = stage.subject.secret.key
    if stage.dialect == "mysql":
        from sqlalchemy.dialects.mysql import insert as mysql_insert  # noqa: PLC0415 - that dialect only

        return mysql_insert(stage.table).values(row).on_duplicate_key_update({secret: "taken"})
    made: Any
    if stage.dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert  # noqa: PLC0415 - that dialect only

        made = sqlite_insert(stage.table).values(row)
    elif stage.dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert  # noqa: PLC0415 - that dialect only

        made = postgresql_insert(stage.table).values(row)
    else:
        raise NotApplicableError("it has no upsert")
    return made.on_conflict_do_update(
        index_elements=list(stage.table.primary_key.columns), set_={secret: "taken"}
    )


def _foreign_key_own_tenant(stage: Stage) -> dict[str, Any]:
    subject = stage.subject
    row = subject.fresh(subject.tenant)
    row.update({column: subject.theirs[column] for column in stage.table.primary_key.columns})
    row[subject.tenant_column] = subject.tenant
    return subject.local(row)


@attack(14)
def upsert_landing_on_a_foreign_row(stage: Stage) -> None:
    _one_table(stage)
    stage.session.execute(_upsert(stage, _foreign_key_own_tenant(stage)))


@attack(14)
def upsert_under_the_other_tenants_name(stage: Stage) -> None:
    _one_table(stage)
    stage.session.execute(_upsert(stage, stage.subject.local(stage.subject.theirs)))


@attack(14)
def upsert_that_returns(stage: Stage) -> Any:
    _one_table(stage)
    stage.only_on("postgresql", "sqlite")
    query = _upsert(stage, _foreign_key_own_tenant(stage))
    return stage.session.execute(query.returning(stage.subject.secret)).all()


@attack(14)
def upsert_that_takes_the_row_over(stage: Stage) -> None:
    _one_table(stage)
    stage.only_on("postgresql", "sqlite")
    tenant = stage.subject.tenant_column
    if tenant.primary_key:
        raise NotApplicableError("its key carries the tenant")
    row = _foreign_key_own_tenant(stage)
    made = _upsert(stage, row)
    again = made._generate()  # noqa: SLF001 - a copy, to change what it sets
    again._post_values_clause = None  # noqa: SLF001 - likewise
    stage.session.execute(
        again.on_conflict_do_update(
            index_elements=list(stage.table.primary_key.columns), set_={tenant.key: stage.subject.tenant}
        )
    )


@attack(16)
def move_own_rows_to_another_tenant(stage: Stage) -> None:
    stage.session.execute(update(stage.table).values({stage.subject.tenant_column: stage.subject.other}))


@attack(16)
def move_an_own_object(stage: Stage) -> None:
    subject = stage.subject
    entity = stage.session.get(stage.model, subject.key_of(subject.mine))
    setattr(entity, subject.tenant_key, subject.other)
    stage.session.flush()


@attack(16)
def take_foreign_rows_over(stage: Stage) -> None:
    subject = stage.subject
    stage.session.execute(
        update(stage.table)
        .where(subject.tenant_column == subject.other)
        .values({subject.tenant_column: subject.tenant})
    )


@attack(16)
def move_by_sql(stage: Stage) -> None:
    subject = stage.subject
    stage.session.execute(
        update(stage.table).values({subject.tenant_column: literal_column(f"'{subject.other}'")})
    )


@attack(16)
def move_by_bulk_update(stage: Stage) -> None:
    subject = stage.subject
    if subject.tenant_column.primary_key:
        raise NotApplicableError("its key carries the tenant")
    own = {
        subject.mapper.get_property_by_column(column).key: subject.mine[column]
        for column in subject.mapper.primary_key
    }
    stage.session.execute(update(stage.model), [{**own, subject.tenant_key: subject.other}])


@attack(50)
def unique_probe(stage: Stage) -> Any:
    """A value that another tenant has taken must not be told from one that nobody has."""
    _one_table(stage)
    subject = stage.subject
    if not subject.tenant_column.primary_key and not subject.tries_unsafe_keys:
        raise NotApplicableError("its key is unique over all tenants, which shows: see TenantModel")
    row = subject.fresh(subject.tenant)
    tenant = subject.tenant_column
    row.update(
        {
            column: value
            for column, value in subject.theirs.items()
            if column is not tenant and column not in _tied(stage)
        }
    )
    try:
        stage.session.execute(insert(stage.table).values(subject.local(row)))
    except IntegrityError:
        return stage.exists(True)  # noqa: FBT003
    # It was the attacker who wrote the foreign text there: that is no copy.
    stage.session.rollback()
    return []


@attack(50)
def do_nothing_tells_by_its_row_count(stage: Stage) -> Any:
    _one_table(stage)
    stage.only_on("postgresql", "sqlite")
    subject = stage.subject
    if not subject.tenant_column.primary_key and not subject.tries_unsafe_keys:
        raise NotApplicableError("its key is unique over all tenants, which shows: see TenantModel")
    if stage.dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as upsert  # noqa: PLC0415 - that dialect only
    else:
        from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]  # noqa: PLC0415 - likewise
    query = upsert(stage.table).values(_foreign_key_own_tenant(stage)).on_conflict_do_nothing()
    result: Any = stage.session.execute(query)
    return stage.exists(result.rowcount == 0)


def _tied(stage: Stage) -> set[Any]:
    return {element.parent for key in stage.table.foreign_key_constraints for element in key.elements}


@attack(2)
def core_delete_of_a_key(stage: Stage) -> Iterator[Any]:
    subject = stage.subject
    result: Any = stage.session.execute(delete(stage.table).where(subject.where(subject.theirs)))
    yield from stage.exists(result.rowcount > 0)
