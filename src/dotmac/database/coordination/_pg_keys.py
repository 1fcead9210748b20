"""The number that PostgreSQL knows an advisory lock by: given, or made of a name."""

from __future__ import annotations

import hashlib

from dotmac.database.coordination._names import checked_name

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def advisory_key(key: int | str, *, tenant: str = "") -> int:
    """``key`` if it is a number, which then counts for the whole database; else a number of the tenant's name.

    A name's number is the first 8 bytes of SHA-256 over a namespace of ours, the tenant and the name, read as a signed
    integer. A tenant id holds no NUL, so no two pairs of tenant and name are hashed alike.

    Raises:
        TypeError: It is neither.
        ValueError: It is no 64-bit number, or empty.
    """
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise TypeError(f"An advisory lock's key is an integer or a name, not {type(key).__name__}.")
    if isinstance(key, int):
        if not _SMALLEST <= key <= _LARGEST:
            raise ValueError(
                "An advisory lock's number has 64 bits, sign included. Use a name for anything else."
            )
        return key
    text = f"dotmac.lock\0{tenant}\0{checked_name(key)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
