"""Wait until the database answers: ``python -m taskboard.pre_start``, before migrations and the server start.

Exit status: 0 ready, 1 not ready in time or never going to be, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from dotmac.database import wait_until_ready
from dotmac.database.errors import DatabaseError

from taskboard.settings import get_database_settings

logger = logging.getLogger("taskboard.pre_start")

TIMEOUT_SECONDS = 300


async def check_db_ready(timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Return once the database answers a query; each failed attempt is logged."""
    await wait_until_ready(
        get_database_settings(),
        timeout_seconds=timeout_seconds,
        progress=lambda attempt: logger.info(
            "Attempt %d: %s; again in %.1f s", attempt.number, attempt.reason, attempt.next_in_seconds
        ),
    )
    logger.info("The database is ready.")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        asyncio.run(check_db_ready())
    except DatabaseError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message says it all
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
