"""Attacks by Core statements, which name the table instead of the model (2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column as SAColumn
from sqlalchemy import (
    Integer,
    MetaData,
    Table,
    case,
    column,
    delete,
    func,
    literal,
    select,
    true,
    union_all,
    update,
    values,
)

from dotmac.database.testing.isolation._attack import NotApplicableError, attack

if TYPE_CHECKING:
    from dotmac.database.testing.isolation._attack import Stage


@attack(2)
def core_select(stage: Stage) -> Any:
    return stage.session.execute(select(stage.table)).all()


@attack(2)
def core_select_of_columns(stage: Stage) -> Any:
    return stage.session.execute(select(stage.subject.secret)).all()


@attack(2)
def core_select_of_alias(stage: Stage) -> Any:
    return stage.session.execute(select(stage.table.alias("other_name"))).all()


@attack(2)
def core_select_in_subquery(stage: Stage) -> Any:
    return stage.session.execute(select(select(stage.table).subquery())).all()


@attack(2)
def core_select_in_cte(stage: Stage) -> Any:
    return stage.session.execute(select(select(stage.subject.secret).cte("found"))).all()


@attack(2)
def core_select_in_recursive_cte(stage: Stage) -> Any:
    found = select(stage.subject.secret.label("secret"), literal(1).label("depth")).cte(
        "found", recursive=True
    )
    again = found.union_all(select(found.c.secret, found.c.depth + 1).where(found.c.depth < 2))  # noqa: PLR2004
    return stage.session.execute(select(again.c.secret)).all()


@attack(2)
def core_union(stage: Stage) -> Any:
    one = select(stage.subject.secret)
    return stage.session.execute(union_all(one, one.where(true()))).all()


@attack(2)
def core_union_in_subquery(stage: Stage) -> Any:
    one = select(stage.subject.secret.label("secret"))
    return stage.session.execute(select(union_all(one, one).subquery().c.secret)).all()


@attack(2)
def core_scalar_subquery(stage: Stage) -> Any:
    secret = stage.subject.secret
    inner = select(func.max(secret)).where(secret == stage.subject.theirs[secret]).scalar_subquery()
    return stage.session.execute(select(inner)).all()


@attack(2)
def core_scalar_subquery_in_case(stage: Stage) -> Any:
    inner = select(func.count()).select_from(stage.table).scalar_subquery()
    return stage.counted(stage.session.execute(select(case((inner > 0, inner), else_=0))).scalar())


@attack(2)
def core_lateral(stage: Stage) -> Any:
    if stage.dialect != "postgresql":
        raise NotApplicableError("its databases differ in LATERAL")
    one = values(column("n", Integer), name="one").data([(1,)])
    inner = select(stage.subject.secret.label("secret")).lateral("inner_rows")
    return stage.session.execute(select(inner.c.secret).select_from(one.join(inner, true()))).all()


@attack(2)
def core_self_join(stage: Stage) -> Any:
    mine, any_row = stage.table.alias("mine"), stage.table.alias("any_row")
    secret = stage.subject.secret.name
    return stage.session.execute(select(any_row.c[secret]).select_from(mine.join(any_row, true()))).all()


@attack(2)
def core_tablesample(stage: Stage) -> Any:
    stage.only_on("postgresql")
    sample = stage.table.tablesample(100)
    return stage.session.execute(select(sample.c[stage.subject.secret.key])).all()


@attack(2)
def core_count(stage: Stage) -> Any:
    return stage.counted(stage.session.scalar(select(func.count()).select_from(stage.table)))


@attack(2)
def core_update(stage: Stage) -> Any:
    stage.session.execute(update(stage.table).values({stage.subject.secret: "taken"}))


@attack(2)
def core_update_of_a_key(stage: Stage) -> Any:
    subject = stage.subject
    stage.session.execute(
        update(stage.table).where(subject.where(subject.theirs)).values({subject.secret: "taken"})
    )


@attack(2)
def core_update_returning(stage: Stage) -> Any:
    if stage.dialect == "mysql":
        raise NotApplicableError("it has no UPDATE … RETURNING")
    secret = stage.subject.secret
    return stage.session.execute(update(stage.table).values({secret: secret + "!"}).returning(secret)).all()


@attack(2)
def core_update_from(stage: Stage) -> Any:
    stage.only_on("postgresql", "sqlite")
    subject, source = stage.subject, stage.table.alias("source")
    theirs = source.c[subject.secret.name] == subject.theirs[subject.secret]
    [*keys] = stage.table.primary_key.columns
    stage.session.execute(
        update(stage.table)
        .where(subject.where(subject.mine), theirs, source.c[keys[-1].name] != keys[-1])
        .values({subject.secret: source.c[subject.secret.name]})
    )


@attack(2)
def core_update_with_subquery(stage: Stage) -> Any:
    if stage.dialect == "mysql":
        raise NotApplicableError("it cannot read the table that it updates")
    subject, source = stage.subject, stage.table.alias("source")
    read = source.c[subject.secret.name]
    inner = select(func.max(read)).where(read == subject.theirs[subject.secret]).scalar_subquery()
    stage.session.execute(
        update(stage.table)
        .where(subject.where(subject.mine))
        .values({subject.secret: func.coalesce(inner, "nothing found")})
    )


@attack(2)
def core_delete(stage: Stage) -> Any:
    stage.session.execute(delete(stage.table))


@attack(2)
def core_delete_returning(stage: Stage) -> Any:
    return stage.session.execute(delete(stage.table).returning(stage.subject.secret)).all()


@attack(2)
def core_delete_using(stage: Stage) -> Any:
    stage.only_on("postgresql")
    source = stage.table.alias("source")
    keys = [stage.table.c[key.name] == source.c[key.name] for key in stage.table.primary_key.columns]
    stage.session.execute(delete(stage.table).where(*keys))


@attack(2)
def core_delete_in_cte(stage: Stage) -> Any:
    stage.only_on("postgresql")
    gone = delete(stage.table).returning(stage.subject.secret.label("secret")).cte("gone")
    return stage.session.execute(select(gone.c.secret)).all()


@attack(2)
def core_update_in_cte(stage: Stage) -> Any:
    stage.only_on("postgresql")
    secret = stage.subject.secret
    changed = (
        update(stage.table).values({secret: secret + "!"}).returning(secret.label("secret")).cte("changed")
    )
    return stage.session.execute(select(changed.c.secret)).all()


@attack(2)
def second_table_object_of_the_same_name(stage: Stage) -> Any:
    secret = stage.subject.secret
    twin = Table(stage.table.name, MetaData(), SAColumn(secret.name, secret.type), schema=stage.table.schema)
    return stage.session.execute(select(twin)).all()
