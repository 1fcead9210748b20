"""What was wrong with a TLS handshake, for who has to mend it."""

from __future__ import annotations

import ssl


def tls_refusal(error: BaseException) -> str | None:
    """Why one side did not accept the other, from what ``error`` was raised for; None if that was not why."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate not accepted: {cause.verify_message}"
        if type(cause) is ssl.SSLError:  # its subclasses are about connections that end
            return f"TLS: {cause.reason or cause}"
        cause = cause.__cause__ or cause.__context__
    return None
