"""Whatever a repository does, its statements carry the tenant and leave deleted rows out."""

from __future__ import annotations

import inspect
import uuid

import pytest
from sqlalchemy import String
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from dotmac.database.context import RequestContext
from dotmac.database.models import SoftDeleteMixin, TenantModel, describe, tenant_foreign_key, tenant_unique
from dotmac.database.query import (
    Copy,
    CountMode,
    CursorPaginationParams,
    Execute,
    Operations,
    PaginationParams,
    Policy,
    QueryFilter,
    QueryOptions,
)
from dotmac.database.tenancy import Scope


class Folder(SoftDeleteMixin, TenantModel):
    __tablename__ = "scope_folders"
    __table_args__ = (tenant_unique("name"),)

    name: Mapped[str] = mapped_column(String(50))
    papers: Mapped[list[Paper]] = relationship(back_populates="folder")


class Paper(SoftDeleteMixin, TenantModel):
    __tablename__ = "scope_papers"
    __table_args__ = (tenant_foreign_key("folder_id", "scope_folders"),)

    folder_id: Mapped[uuid.UUID]
    folder: Mapped[Folder] = relationship(back_populates="papers")


KEY = uuid.UUID(int=7)
DIALECTS = {"postgresql": postgresql.dialect(), "sqlite": sqlite.dialect(), "mysql": mysql.dialect()}
RELATED = [QueryFilter(field="papers.id", value=KEY)]

# Each operation, and whether it may see deleted rows.
OPERATIONS = {
    "get_by_id": [(lambda do: do.get_by_id(KEY, include_deleted=False, load=("papers",)), False)],
    "require": [(lambda do: do.require(KEY, include_deleted=True), True)],
    "get_by_field": [(lambda do: do.get_by_field("name", "x", include_deleted=False), False)],
    "list": [
        (lambda do: do.list({"filters": RELATED}), False),
        (lambda do: do.list({"include_deleted": True}), True),
    ],
    "count": [(lambda do: do.count(RELATED, include_deleted=False), False)],
    "exists": [(lambda do: do.exists(RELATED, include_deleted=False), False)],
    "list_paginated": [
        (
            lambda do, count=count: do.list_paginated(
                QueryOptions(pagination=PaginationParams(page=2, count=count))
            ),
            False,
        )
        for count in CountMode
    ],
    "cursor_paginate": [
        (
            lambda do: do.cursor_paginate(QueryOptions(cursor_pagination=CursorPaginationParams(limit=1))),
            False,
        )
    ],
    "create": [(lambda do: do.create({"name": "x"}, None), False)],
    "update": [(lambda do: do.update(KEY, {"name": "x"}, None), False)],
    "delete": [
        (lambda do: do.delete(KEY, soft_delete=True, user_id=None), False),
        (lambda do: do.delete(KEY, soft_delete=False, user_id=None), True),
    ],
    "restore": [(lambda do: do.restore(KEY, None), True)],
    "bulk_create": [(lambda do: do.bulk_create([{"id": KEY, "name": "x"}], None), True)],
    "bulk_insert": [
        (lambda do: do.bulk_insert([{"name": "x"}], None), False),
        (lambda do: do.bulk_insert([{"name": str(n)} for n in range(600)], None), False),
    ],
    "bulk_update": [(lambda do: do.bulk_update([{"id": KEY, "name": "x"}], None), False)],
    "bulk_delete": [
        (lambda do: do.bulk_delete([KEY], soft_delete=True, user_id=None), False),
        (lambda do: do.bulk_delete([KEY], soft_delete=False, user_id=None), True),
    ],
    "get_or_create": [(lambda do: do.get_or_create({"name": "x"}, None, None), False)],
    "upsert": [(lambda do: do.upsert({"name": "x"}, None, None, None), False)],
    "upsert_many": [(lambda do: do.upsert_many([{"name": "x"}], None, None, None), False)],
}
CASES = [
    pytest.param(*case, id=f"{name}-{number}")
    for name, cases in OPERATIONS.items()
    for number, case in enumerate(cases)
]


class Answer:
    """A result that has one row."""

    rowcount = 1
    lastrowid = 1

    def __init__(self) -> None:
        self.entity = Folder(id=KEY, tenant_id="acme", name="x")

    def scalar_one_or_none(self) -> Folder:
        return self.entity

    def scalars(self) -> Answer:
        return self

    def __iter__(self):
        return iter([self.entity])

    def first(self) -> Folder:
        return self.entity

    def all(self):
        return [(self.entity, self.entity.tenant_id, self.entity.id)]

    def scalar_one(self):
        return [{"Plan": {"Plan Rows": 7}}] if self.explains else 7

    explains = False


def statements_of(operation, dialect, scope=Scope("acme")):  # noqa: B008 - immutable
    """The steps of an operation, each with its SQL; rows are answered as the database would."""
    operations = Operations(
        describe(Folder),
        scope,
        Policy(),
        Session(),
        lambda: dialect,
        lambda: RequestContext(tenant_id="acme"),
    )
    steps, answer, found = operation(operations), None, []
    try:
        while True:
            step = steps.send(answer)
            answer = None
            if isinstance(step, Execute):
                sql = str(step.statement.compile(dialect=dialect))
                found.append((step, sql))
                answer = Answer()
                answer.explains = sql.startswith("EXPLAIN")
            elif isinstance(step, Copy):
                found.append((step, ""))
                answer = True
    except StopIteration:
        return found


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize(("operation", "sees_deleted"), CASES)
def test_every_statement_carries_the_scope(operation, sees_deleted, dialect):
    for step, sql in statements_of(operation, dialect):
        if isinstance(step, Copy):
            tenant = step.columns.index("tenant_id")
            assert {record[tenant] for record in step.records} == {"acme"}
        elif sql.startswith("INSERT"):
            rows = step.parameters if isinstance(step.parameters, list | tuple) else [step.parameters]
            given = [row["tenant_id"] for row in rows if row] or [
                step.statement.compile().params["tenant_id"]
            ]
            assert set(given) == {"acme"}
            if "DO UPDATE" in sql:
                assert "WHERE scope_folders.tenant_id = " in sql
                assert "scope_folders.deleted_at IS NULL" in sql
            if "ON DUPLICATE KEY UPDATE" in sql and "CASE" in sql:
                assert "scope_folders.deleted_at IS NULL" in sql
        elif not sql.endswith("WHERE 0 = 1"):  # takes SQLite's write lock, touches no row
            assert "scope_folders.tenant_id = " in sql
            assert (
                ("scope_folders.deleted_at IS NULL" in sql)
                or sees_deleted
                or "populate_existing" in step.options
            )
            if "scope_papers" in sql:
                assert "scope_papers.tenant_id = " in sql
                assert "scope_papers.deleted_at IS NULL" in sql


def test_no_operation_is_missing_here():
    methods = {
        name
        for name, member in inspect.getmembers(Operations, inspect.isfunction)
        if not name.startswith("_") and not name.endswith("_statement")
    }
    assert methods == set(OPERATIONS)
