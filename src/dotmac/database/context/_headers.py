"""A context on its way through a queue: signed, dated, and refused when it is not ours, stale or meant for another job.

``1.<payload>.<signature>``: JSON in base64url, and an HMAC-SHA256 (RFC 2104) over version, purpose and payload. The values
can be read by whoever can read the queue, and cannot be changed or made up without the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dotmac.database.context._current import current_context
from dotmac.database.context._request import RequestContext
from dotmac.database.errors import InvalidContextError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    Key: TypeAlias = str | bytes
    Keys: TypeAlias = Key | Sequence[Key]

CONTEXT_HEADER = "X-Dotmac-Context"
"""Name of the one header."""

_VERSION = "1"
_LEAST_KEY_BYTES = 16
_MOST_CHARS = 8192
_CLOCK_SKEW = timedelta(minutes=1)
_FIELDS = {"t": "tenant_id", "u": "user_id", "r": "request_id", "c": "client_ip"}


def context_headers(context: RequestContext | None = None, *, key: Keys, purpose: str = "") -> dict[str, str]:
    """Headers that carry ``context`` (by default the one in force) to a worker, signed with the first ``key``.

    Args:
        context: What to carry.
        key: A secret of at least 16 bytes, shared with the worker; or several, the newest first, while keys rotate.
        purpose: What the headers are good for, such as the name of the job; the worker must name the same.

    Raises:
        ValueError: The context is `unscoped`, which never travels: a job says its own reason; or the key is too short.
    """
    carried = current_context() if context is None else context
    if carried.is_unscoped:
        raise ValueError(
            "An unscoped context does not travel to another process. Send the job with the context of its tenant, or "
            "let the job itself work inside unscoped('why')."
        )
    values = {
        short: str(value) for short, name in _FIELDS.items() if (value := getattr(carried, name)) is not None
    }
    dated = {**values, "at": int(time.time())}
    payload = _encoded(json.dumps(dated, separators=(",", ":")).encode())
    return {CONTEXT_HEADER: f"{_VERSION}.{payload}.{_signature(_keys(key)[0], purpose, payload)}"}


def context_from_headers(
    headers: Mapping[str, Any], *, key: Keys, max_age: timedelta, purpose: str = ""
) -> RequestContext:
    """The context that `context_headers` put into ``headers``, whose names may be in any case.

    Args:
        headers: The job's headers.
        key: The key, or all that are still good: the new one and those before it.
        max_age: How long ago the headers may have been made; longer than the longest wait in the queue.
        purpose: What `context_headers` was told.

    Raises:
        InvalidContextError: They are missing, damaged, too old, or signed with another key or for another purpose.
        ValueError: The key is too short or ``max_age`` is not positive.
    """
    keys = _keys(key)
    if max_age <= timedelta():
        raise ValueError("max_age must be positive.")
    version, payload, signature = _parts(headers)
    if version != _VERSION:
        raise InvalidContextError(
            f"The context headers have a version this library does not know; it knows {_VERSION}. Update the worker.",
            reason="version",
        )
    good = [hmac.compare_digest(_signature(each, purpose, payload).encode(), signature) for each in keys]
    if not any(good):
        raise InvalidContextError(
            "The context headers are not signed with any of the keys given, or for another purpose. Give sender and "
            "worker the same key (while keys rotate, the worker all of them) and the same purpose.",
            reason="signature",
        )
    values = json.loads(_decoded(payload))
    age = timedelta(seconds=time.time() - values["at"])
    if not -_CLOCK_SKEW <= age <= max_age:
        raise InvalidContextError(
            f"The context headers were made {age.total_seconds():.0f} s ago; accepted are {max_age.total_seconds():.0f} s. "
            f"Send the job again, give it a longer max_age, or set the clocks right.",
            reason="age",
        )
    return RequestContext(**{name: values[short] for short, name in _FIELDS.items() if short in values})


def _parts(headers: Mapping[str, Any]) -> tuple[str, str, bytes]:
    found = [value for name, value in headers.items() if _text(name).lower() == CONTEXT_HEADER.lower()]
    if not found:
        raise InvalidContextError(
            f"There is no header {CONTEXT_HEADER}: the job was sent without context_headers().",
            reason="missing",
        )
    text = _text(found[0])
    parts = text.split(".")
    if len(found) > 1 or len(text) > _MOST_CHARS or not text.isascii() or len(parts) != 3:  # noqa: PLR2004 - see the module
        raise InvalidContextError(f"The header {CONTEXT_HEADER} is damaged.", reason="damaged")
    version, payload, signature = parts
    return version, payload, signature.encode()


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _keys(key: Keys) -> list[bytes]:
    given = [key] if isinstance(key, str | bytes) else list(key)
    keys = [each.encode() if isinstance(each, str) else bytes(each) for each in given]
    if not keys or any(len(each) < _LEAST_KEY_BYTES for each in keys):
        raise ValueError(
            f"A key for context headers has at least {_LEAST_KEY_BYTES} bytes. Make one: "
            f"python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return keys


def _signature(key: bytes, purpose: str, payload: str) -> str:
    # The purpose comes with its length, so that no other split of the same bytes has the same signature.
    named = purpose.encode()
    signed = b"dotmac-database context %s %d:%s.%s" % (_VERSION.encode(), len(named), named, payload.encode())
    return _encoded(hmac.digest(key, signed, hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
