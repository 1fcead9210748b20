"""Why a probe failed, in a sentence that quotes nothing: drivers put addresses and users into their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dotmac.database.health._attempt import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABORTED = "25P02"
# PostgreSQL Appendix A, and MySQL's error numbers of the same meaning.
_STATES = {
    _ABORTED: "The session's transaction was aborted by an earlier error; roll it back.",
    "28P01": "The server refuses the password.",
    "28000": "The server refuses this user.",
    "3D000": "The database does not exist.",
    "42501": "The user may not do this.",
    "53300": "The server has no connection left to give.",
    "57P03": "The server is starting up or shutting down.",
    "57014": "The server cancelled the query.",
}
_NUMBERS = {
    1040: _STATES["53300"],
    1044: _STATES["28000"],
    1045: _STATES["28P01"],
    1049: _STATES["3D000"],
    1053: _STATES["57P03"],
    1698: _STATES["28000"],
}
# libpq tells a failed connect in words only.
_WORDS = {
    "password authentication failed": _STATES["28P01"],
    "no password supplied": _STATES["28P01"],
    "no pg_hba.conf entry": _STATES["28000"],
    "connection refused": "The server refuses connections.",
    "remaining connection slots": _STATES["53300"],
    "too many clients": _STATES["53300"],
    "is starting up": _STATES["57P03"],
    "is shutting down": _STATES["57P03"],
    "server closed the connection": "The server closed the connection.",
}


def reason_of(error: BaseException) -> str:
    """One sentence, and the names that help to look further: the error's class and SQLSTATE."""
    if isinstance(error, NoAnswerError):
        what = "No connection" if error.stage == "connect" else "No answer to a query"
        return f"{what} within {error.seconds:.3g} s."
    causes = list(_causes(error))
    for cause in causes:
        if known := _known(cause):
            return known
    root = causes[-1]
    state = next((found for cause in causes if (found := _state(cause))), None)
    return f"It failed with {type(root).__name__}{f' (SQLSTATE {state})' if state else ''}."


def _known(cause: BaseException) -> str | None:
    if isinstance(cause, ConnectionRefusedError):
        return _WORDS["connection refused"]
    if isinstance(cause, TimeoutError):
        return "No connection in the time the driver allows."
    number: Any = cause.args[0] if cause.args else None
    if isinstance(number, int) and not isinstance(cause, OSError) and number in _NUMBERS:
        return _NUMBERS[number]
    if (state := _state(cause)) is not None:
        return _STATES.get(state)
    text = str(cause).lower()
    return next((sentence for words, sentence in _WORDS.items() if words in text), None)


def _state(cause: BaseException) -> str | None:
    state = getattr(cause, "sqlstate", None)
    return state if isinstance(state, str) and len(state) == len(_ABORTED) and state.isalnum() else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = getattr(at, "orig", None) or at.__cause__
