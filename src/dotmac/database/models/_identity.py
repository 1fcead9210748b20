"""Identifiers that sort by time of creation: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import sys
import uuid

if sys.version_info >= (3, 14):
    uuid7 = uuid.uuid7
else:
    # uuid_utils.compat returns the standard library's own UUID class; never a silent version 4.
    from uuid_utils.compat import uuid7 as _uuid7

    def uuid7() -> uuid.UUID:
        """A new UUID version 7: 48 bits of Unix milliseconds, then randomness."""
        return _uuid7()


__all__ = ["uuid7"]
