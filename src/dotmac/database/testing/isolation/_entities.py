"""Attacks by statements on entities, beside them, and by how statements are made and kept (2, 3, 4, 17, 18, 19, 21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    and_,
    delete,
    exists,
    func,
    lambda_stmt,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.orm import Bundle, aliased

from dotmac.database.context import RequestContext, use_context
from dotmac.database.testing.isolation._attack import NotApplicableError, attack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dotmac.database.testing.isolation._attack import Stage


@attack(2)
def orm_update(stage: Stage) -> Any:
    stage.session.execute(update(stage.model).values({stage.subject.secret_key: "taken"}))


@attack(2)
def orm_delete(stage: Stage) -> Any:
    stage.session.execute(delete(stage.model))


@attack(2)
def orm_update_that_fetches(stage: Stage) -> Any:
    stage.session.execute(
        update(stage.model).values({stage.subject.secret_key: "taken"}),
        execution_options={"synchronize_session": "fetch"},
    )


@attack(2)
def legacy_query(stage: Stage) -> Any:
    return stage.session.query(stage.model).all()


@attack(2)
def legacy_query_update(stage: Stage) -> Any:
    stage.session.query(stage.model).update({stage.subject.secret_key: "taken"}, synchronize_session=False)


@attack(2)
def legacy_query_delete(stage: Stage) -> Any:
    stage.session.query(stage.model).delete(synchronize_session=False)


@attack(2)
def legacy_query_count(stage: Stage) -> Any:
    return stage.counted(stage.session.query(stage.model).count())


@attack(2)
def orm_select(stage: Stage) -> Any:
    return stage.session.scalars(select(stage.model)).all()


@attack(2)
def orm_alias(stage: Stage) -> Any:
    return stage.session.scalars(select(aliased(stage.model))).all()


@attack(2)
def orm_alias_of_subquery(stage: Stage) -> Any:
    if len(stage.subject.mapper.tables) > 1:
        raise NotApplicableError("its rows are spread over tables")
    return stage.session.scalars(select(aliased(stage.model, select(stage.model).subquery()))).all()


@attack(2)
def orm_bundle(stage: Stage) -> Any:
    bundle: Any = Bundle("found", getattr(stage.model, stage.subject.secret_key))
    return stage.session.execute(select(bundle)).all()


@attack(2)
def orm_aggregate(stage: Stage) -> Any:
    secret = getattr(stage.model, stage.subject.secret_key)
    return stage.session.execute(select(func.max(secret), func.min(secret))).all()


@attack(2)
def orm_group_by(stage: Stage) -> Any:
    secret = getattr(stage.model, stage.subject.secret_key)
    return stage.session.execute(select(secret, func.count()).group_by(secret).having(func.count() > 0)).all()


@attack(2)
def orm_window(stage: Stage) -> Any:
    secret = getattr(stage.model, stage.subject.secret_key)
    return stage.session.execute(select(func.first_value(secret).over(order_by=secret.desc()))).all()


@attack(2)
def aliased_model_by_key(stage: Stage) -> Any:
    alias = aliased(stage.model)
    keys = [
        getattr(alias, stage.subject.mapper.get_property_by_column(column).key)
        == stage.subject.theirs[column]
        for column in stage.subject.mapper.primary_key
    ]
    return stage.session.scalars(select(alias).where(*keys)).all()


@attack(2)
def tenant_predicate_of_the_others(stage: Stage) -> Any:
    return stage.session.scalars(
        select(stage.model).where(getattr(stage.model, stage.subject.tenant_key) == stage.subject.other)
    ).all()


@attack(2)
def tenant_predicate_with_or(stage: Stage) -> Any:
    tenant = getattr(stage.model, stage.subject.tenant_key)
    return stage.session.scalars(
        select(stage.model).where((tenant == stage.subject.tenant) | (tenant == stage.subject.other))
    ).all()


@attack(3)
def select_on_the_sessions_connection(stage: Stage) -> Any:
    return stage.session.connection().execute(select(stage.model)).all()


@attack(3)
def core_select_on_the_sessions_connection(stage: Stage) -> Any:
    return stage.session.connection().execute(select(stage.table)).all()


@attack(3)
def update_on_the_sessions_connection(stage: Stage) -> Any:
    stage.session.connection().execute(update(stage.table).values({stage.subject.secret: "taken"}))


@attack(4)
def exists_without_entity(stage: Stage) -> Any:
    return stage.exists(
        stage.session.scalar(select(exists().where(stage.subject.where(stage.subject.theirs))))
    )


@attack(4)
def exists_of_select(stage: Stage) -> Any:
    inner = select(stage.table).where(stage.subject.where(stage.subject.theirs))
    return stage.exists(stage.session.scalar(select(inner.exists())))


@attack(4)
def constant_where_a_row_is(stage: Stage) -> Any:
    return stage.exists(
        stage.session.execute(select(literal(1)).where(stage.subject.where(stage.subject.theirs))).first()
    )


@attack(4)
def count_where_exists(stage: Stage) -> Any:
    inner = exists().where(stage.subject.where(stage.subject.theirs))
    return stage.exists(stage.session.scalar(select(func.count()).where(inner)))


@attack(4)
def in_subquery(stage: Stage) -> Any:
    secret = stage.subject.secret
    theirs = stage.subject.theirs[secret]
    return stage.exists(stage.session.scalar(select(literal(theirs).in_(select(secret)))))


@attack(17)
def cached_lambda(stage: Stage) -> Iterator[Any]:
    model = stage.model
    with stage.open(stage.subject.other) as session:
        session.scalars(lambda_stmt(lambda: select(model))).all()
    yield from stage.session.scalars(lambda_stmt(lambda: select(model))).all()


@attack(17)
def statement_run_for_another_tenant_first(stage: Stage) -> Iterator[Any]:
    query = select(stage.model)
    with stage.open(stage.subject.other) as session:
        session.scalars(query).all()
    yield from stage.session.scalars(query).all()


@attack(17)
def compiled_cache_of_ones_own(stage: Stage) -> Iterator[Any]:
    cache: dict[Any, Any] = {}
    for tenant in (stage.subject.other, stage.subject.tenant):
        with stage.open(tenant) as session:
            connection = session.connection(execution_options={"compiled_cache": cache})
            found = connection.execute(select(stage.table)).all()
        if tenant == stage.subject.tenant:
            yield from found


def _differ(stage: Stage, alias: Any) -> Any:
    """Joins a row to all others."""
    name = stage.subject.secret_key
    return getattr(alias, name) != getattr(stage.model, name)


@attack(18)
def join_with_explicit_on(stage: Stage) -> Any:
    alias = aliased(stage.model)
    query = select(alias).select_from(stage.model).join(alias, _differ(stage, alias))
    return stage.session.scalars(query).all()


@attack(18)
def outer_join_with_explicit_on(stage: Stage) -> Any:
    alias = aliased(stage.model)
    query = select(stage.model, alias).outerjoin(alias, _differ(stage, alias))
    return stage.session.execute(query).all()


@attack(18)
def full_outer_join(stage: Stage) -> Any:
    stage.only_on("postgresql", "sqlite")
    one, other = stage.table.alias("one"), stage.table.alias("other")
    keys = [one.c[key.name] == other.c[key.name] for key in stage.table.primary_key.columns]
    query = select(one.c[stage.subject.secret.name], other.c[stage.subject.secret.name]).select_from(
        one.outerjoin(other, and_(*keys), full=True)
    )
    return stage.session.execute(query).all()


@attack(18)
def outer_join_keeps_own_rows(stage: Stage) -> Any:
    """The predicate of the joined table must not turn an outer join into an inner one."""
    one, other = stage.table.alias("one"), stage.table.alias("other")
    query = select(func.count(one.c[stage.subject.secret.name])).select_from(
        one.outerjoin(other, other.c[stage.subject.secret.name] == stage.subject.theirs[stage.subject.secret])
    )
    return stage.counted(stage.session.scalar(query))


@attack(19)
def delete_of_a_limited_subquery(stage: Stage) -> Any:
    if stage.dialect == "mysql":
        raise NotApplicableError("it has no LIMIT in such a subquery")
    [*keys] = stage.table.primary_key.columns
    limited = select(keys[-1]).limit(100)
    stage.session.execute(delete(stage.table).where(keys[-1].in_(limited)))


@attack(19)
def update_of_a_limited_subquery(stage: Stage) -> Any:
    if stage.dialect == "mysql":
        raise NotApplicableError("it has no LIMIT in such a subquery")
    [*keys] = stage.table.primary_key.columns
    limited = select(keys[-1]).order_by(keys[-1].desc()).limit(100)
    stage.session.execute(
        update(stage.model)
        .where(keys[-1].in_(limited))
        .values({stage.subject.secret_key: "taken"})
        .execution_options(synchronize_session=False)
    )


@attack(19)
def update_with_limit(stage: Stage) -> Any:
    stage.only_on("mysql")
    stage.session.execute(
        update(stage.table).values({stage.subject.secret: "taken"}).with_dialect_options(mysql_limit=100)
    )


@attack(19)
def select_with_limit(stage: Stage) -> Any:
    return stage.session.scalars(select(stage.model).order_by(stage.subject.secret).limit(100)).all()


@attack(21)
def query_built_before_any_tenant(stage: Stage) -> Any:
    with use_context(RequestContext()):
        query = select(stage.model)
    return stage.session.scalars(query).all()


@attack(21)
def query_built_for_another_tenant(stage: Stage) -> Any:
    with use_context(RequestContext(tenant_id=stage.subject.other)):
        query = select(stage.model).where(text("1 = 1"))
    return stage.session.scalars(query).all()
