"""The command line ``dotmac-db``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``dotmac-db`` and exit with 0 (done), 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    try:
        from dotmac.database.cli._main import run  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        print(f"Error: dotmac-db needs {error.name}: install 'dotmac-database[cli]'.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    sys.exit(run())


__all__ = ["main"]
