"""What a MySQL or MariaDB connection is opened with: all of Unicode, UTC, and a server that refuses instead of guessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

    from dotmac.database.settings import DatabaseSettings

SQL_MODE = (
    "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ONLY_FULL_GROUP_BY,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
)


def connect_arguments(
    url: URL, driver: str, settings: DatabaseSettings, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments for the driver; what the caller or the URL gives wins."""
    statements = f"SET time_zone='+00:00', sql_mode='{SQL_MODE}'"
    if settings.statement_timeout is not None:
        # MariaDB's name; MySQL calls it max_execution_time. The comment form is run by MariaDB only.
        statements += f" /*M!100100 , max_statement_time={settings.statement_timeout:g} */"
        statements += f" /*!50708 , max_execution_time={round(settings.statement_timeout * 1000)} */"
    whole = driver in {"pymysql", "mysqldb"}
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "init_command": statements,
        "connect_timeout": max(1, round(settings.connect_timeout)) if whole else settings.connect_timeout,
    }
    for name in url.query:
        arguments.pop(name, None)
    return {**arguments, **given}
