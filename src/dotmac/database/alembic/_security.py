"""Autogenerate for row-level security: tables of tenants whose policies are missing, or are not as generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from alembic.autogenerate import comparators
from alembic.operations.ops import CreateTableOp
from alembic.util import langhelpers
from sqlalchemy import MetaData, Table, inspect, text

from dotmac.database.alembic._operations import DisableTenantSecurityOp, EnableTenantSecurityOp
from dotmac.database.tenancy import (
    RESTRICTIVE_POLICY,
    TENANT_COLUMN,
    VERIFY_SQL,
    rule_of,
    secured,
    verify_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy import Connection

OPTION: Final = "row_level_security"


def _last() -> dict[str, Any]:
    """Told by the order of registration before Alembic 1.18, by a priority since."""
    priorities: Any = getattr(langhelpers, "DispatchPriority", None)
    return {} if priorities is None else {"priority": priorities.LAST}


# After the comparison of tables: policies are put on what that creates.
@comparators.dispatch_for("schema", **_last())
def _compare_security(context: AutogenContext, upgrade: UpgradeOps, schemas: set[str | None]) -> None:
    _forget_notes(upgrade)
    connection = context.connection
    if not context.opts.get(OPTION) or connection is None or connection.dialect.name != "postgresql":
        return
    tables = [table for table in _tables(context, connection) if table.schema in schemas]
    rows = connection.execute(text(VERIFY_SQL), verify_parameters(tables)).all()
    done = secured(tables, rows)
    relations: dict[int, set[tuple[str, str]]] = {}
    ours: set[int] = set()
    for position, schema, name, _, _, _, policy, *_ in rows:
        relations.setdefault(position, set()).add((schema, name))
        if policy == RESTRICTIVE_POLICY:
            ours.add(position)
    for position, table in enumerate(tables):
        rule = rule_of(table)
        partitions = len(relations[position]) > 1 or bool(
            table.dialect_options["postgresql"].get("partition_by")
        )
        if rule is None:
            if position in ours:
                # First: a column that a policy reads cannot be dropped or changed.
                upgrade.ops.insert(
                    0, DisableTenantSecurityOp(table.name, schema=table.schema, partitions=partitions)
                )
        elif table not in done:
            upgrade.ops.append(
                EnableTenantSecurityOp(table.name, rule, schema=table.schema, partitions=partitions)
            )


def _forget_notes(upgrade: UpgradeOps) -> None:
    """What tenancy notes on a table is nothing for a revision; Alembic would write it as the table's info."""
    for operation in upgrade.ops:
        if isinstance(operation, CreateTableOp):
            operation.info = {
                key: value
                for key, value in operation.info.items()
                if key != TENANT_COLUMN and not str(key).startswith("dotmac_")
            }


def _tables(context: AutogenContext, connection: Connection) -> Iterator[Table]:
    """The models' tables, owners first, that autogenerate is to compare; the default schema counts as none."""
    default = inspect(connection).default_schema_name
    metadata = context.metadata
    for part in [metadata] if isinstance(metadata, MetaData) else metadata or ():
        for table in part.sorted_tables:
            named = table.schema if table.schema != default else None
            arguments: Any = (
                table,
                table.name,
                "table",
                False,
                None,
            )  # by position, as Alembic's own comparison
            if context.run_name_filters(
                table.name, "table", {"schema_name": named}
            ) and context.run_object_filters(*arguments):
                yield table
