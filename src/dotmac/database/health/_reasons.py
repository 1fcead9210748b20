"""Why a probe failed, in a sentence that quotes nothing: drivers put addresses and users into their messages."""

from __future__ import annotations

from dotmac.database.health._attempt import NoAnswerError
from dotmac.database.transactions import ErrorKind, classify

# SQLSTATEs (PostgreSQL manual, appendix A), and MySQL's error numbers of the same meaning.
_PASSWORD = "The server refuses the password."  # noqa: S105 - a sentence
_USER = "The server refuses this user."
_DATABASE = "The database does not exist."
_CROWDED = "The server has no connection left to give."
_STARTING = "The server is starting up or shutting down."
_BY_CODE = {
    "25P02": "The session's transaction was aborted by an earlier error; roll it back.",
    "28P01": _PASSWORD,
    "28000": _USER,
    "3D000": _DATABASE,
    "42501": "The user may not do this.",
    "53300": _CROWDED,
    "57P03": _STARTING,
    "1040": _CROWDED,
    "1044": _USER,
    "1045": _PASSWORD,
    "1049": _DATABASE,
    "1053": _STARTING,
    "1698": _USER,
}
_BY_KIND = {
    ErrorKind.UNREACHABLE: "The server cannot be reached.",
    ErrorKind.DISCONNECTED: "The connection was lost.",
    ErrorKind.AMBIGUOUS_COMMIT: "The connection was lost.",
    ErrorKind.TIMEOUT: "The server cancelled the query because it took too long.",
    ErrorKind.LOCK_TIMEOUT: "The database is locked by somebody else.",
}


def reason_of(error: BaseException) -> str:
    """One sentence; for what has none of its own, the error's class and code."""
    if isinstance(error, NoAnswerError):
        what = "No connection" if error.stage == "connect" else "No answer to a query"
        return f"{what} within {error.seconds:.2g} s."
    if isinstance(error, ConnectionRefusedError | ConnectionResetError | TimeoutError):
        return _BY_KIND[ErrorKind.UNREACHABLE]
    verdict = classify(error)
    sentence = _BY_CODE.get(verdict.code or "") or _BY_KIND.get(verdict.kind)
    if sentence is not None:
        return sentence
    root = error
    while (cause := getattr(root, "orig", None) or root.__cause__) is not None:
        root = cause
    return f"It failed with {type(root).__name__}{f' (code {verdict.code})' if verdict.code else ''}."
