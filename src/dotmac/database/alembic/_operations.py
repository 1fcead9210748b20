"""``op.enable_tenant_security`` and its reverse: row-level security as a step of a revision.

On databases without row-level security both do nothing, so that one revision serves every database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, Operations

from dotmac.database.tenancy import OwnerStep, TenantRule, literal_sql, secure_sql, unsecure_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from alembic.autogenerate.api import AutogenContext

Step: TypeAlias = "tuple[str, Mapping[str, str]] | tuple[str, Mapping[str, str], str | None]"


@Operations.register_operation("enable_tenant_security")
class EnableTenantSecurityOp(MigrateOperation):
    """Row-level security on one table."""

    def __init__(
        self, table: str, rule: TenantRule, *, schema: str | None = None, partitions: bool = False
    ) -> None:
        self.table = table
        self.rule = rule
        self.schema = schema
        self.partitions = partitions

    @classmethod
    def enable_tenant_security(
        cls,
        operations: Operations,
        table: str,
        *,
        column: str = "tenant_id",
        cast: str | None = None,
        through: Sequence[Step] = (),
        schema: str | None = None,
        partitions: bool = False,
    ) -> None:
        """Keep every session within the rows of its tenant; PostgreSQL only, elsewhere nothing is done.

        May be run again: what is there is replaced.

        Args:
            operations: ``op``.
            table: Name of the table.
            column: The column that says whose a row is.
            cast: Its type, where it is not text: ``"uuid"``, ``"integer"``.
            through: Where the table has no such column: references to follow first, each a table and the columns that
                refer to it, ``("invoices", {"invoice_id": "id"})``; ``column`` is one of the last table's.
            schema: Its schema; None for the default one.
            partitions: The table has partitions, which need policies of their own.
        """
        steps = tuple(
            OwnerStep(step[0], step[2] if len(step) > 2 else None, tuple(step[1].items()))  # noqa: PLR2004 - the schema is optional
            for step in through
        )
        operations.invoke(cls(table, TenantRule(column, cast, steps), schema=schema, partitions=partitions))

    def reverse(self) -> DisableTenantSecurityOp:
        """The operation that undoes this one."""
        return DisableTenantSecurityOp(
            self.table, schema=self.schema, partitions=self.partitions, rule=self.rule
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """What ``alembic check`` prints."""
        return ("enable_tenant_security", self.schema, self.table)


@Operations.register_operation("disable_tenant_security")
class DisableTenantSecurityOp(MigrateOperation):
    """No row-level security on one table."""

    def __init__(
        self,
        table: str,
        *,
        schema: str | None = None,
        partitions: bool = False,
        rule: TenantRule | None = None,
    ) -> None:
        self.table = table
        self.schema = schema
        self.partitions = partitions
        self.rule = rule

    @classmethod
    def disable_tenant_security(
        cls, operations: Operations, table: str, *, schema: str | None = None, partitions: bool = False
    ) -> None:
        """Undo ``enable_tenant_security``: everybody who may read the table sees every tenant's rows again.

        Args:
            operations: ``op``.
            table: Name of the table.
            schema: Its schema; None for the default one.
            partitions: The table has partitions.
        """
        operations.invoke(cls(table, schema=schema, partitions=partitions))

    def reverse(self) -> EnableTenantSecurityOp:
        """The operation that undoes this one."""
        rule = TenantRule() if self.rule is None else self.rule
        return EnableTenantSecurityOp(self.table, rule, schema=self.schema, partitions=self.partitions)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """What ``alembic check`` prints."""
        return ("disable_tenant_security", self.schema, self.table)


@Operations.implementation_for(EnableTenantSecurityOp)
def _enable(operations: Operations, operation: EnableTenantSecurityOp) -> None:
    _execute(
        operations,
        secure_sql(operation.table, operation.rule, schema=operation.schema, partitions=operation.partitions),
    )


@Operations.implementation_for(DisableTenantSecurityOp)
def _disable(operations: Operations, operation: DisableTenantSecurityOp) -> None:
    _execute(
        operations,
        unsecure_sql(operation.table, schema=operation.schema, partitions=operation.partitions),
    )


def _execute(operations: Operations, statements: Iterable[str]) -> None:
    if operations.migration_context.dialect.name != "postgresql":
        return
    for statement in statements:
        operations.execute(literal_sql(statement))


@renderers.dispatch_for(EnableTenantSecurityOp)
def _render_enable(_context: AutogenContext, operation: EnableTenantSecurityOp) -> str:
    rule = operation.rule
    through = [
        (step.table, dict(step.pairs)) if step.schema is None else (step.table, dict(step.pairs), step.schema)
        for step in rule.through
    ]
    options = {
        "column": None if rule.column == TenantRule().column else rule.column,
        "cast": rule.cast,
        "through": through,
        "schema": operation.schema,
        "partitions": operation.partitions,
    }
    return _rendered("enable_tenant_security", operation.table, options)


@renderers.dispatch_for(DisableTenantSecurityOp)
def _render_disable(_context: AutogenContext, operation: DisableTenantSecurityOp) -> str:
    options = {"schema": operation.schema, "partitions": operation.partitions}
    return _rendered("disable_tenant_security", operation.table, options)


def _rendered(name: str, table: str, options: Mapping[str, Any]) -> str:
    given = [f"{option}={value!r}" for option, value in options.items() if value]
    return f"op.{name}({', '.join([repr(table), *given])})"
