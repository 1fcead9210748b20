"""What a piece of raw SQL may do, told by its words: which tables it names, and what in it cannot be seen through.

No parser: a lexer that knows strings, quoted names and comments. It errs on the side of refusing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*|/\*|\#[^\n]*|\*/)
    | (?P<unicode>[uU]&(?=["']))
    | (?P<string>[eEbBxXnN]?'(?:[^'\\]|''|\\.)*')
    | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    | (?P<brackets>\[[^\]]*\])
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<bind>::?[A-Za-z_]\w*|%\(\w+\)s|\$\d+)
    | (?P<open>\() | (?P<close>\)) | (?P<end>;) | (?P<dot>\.)
    | (?P<stray>["'`])
    | (?P<other>\S)
    """,
    re.VERBOSE | re.DOTALL,
)

_PLAIN_VERBS = frozenset(
    {"select", "with", "values", "table", "insert", "update", "delete", "explain", "show", "pragma"}
)
_RUNS_SQL = re.compile(
    r"(?:query|table|schema|database|cursor)_to_(?:xml|xmlschema|xml_and_xmlschema)|dblink\w*|crosstab\w*|connectby"
    r"|ts_stat|ts_rewrite|pg_(?:read|ls|stat|write)_\w*file\w*|lo_\w+|load_file|load_extension|eval|readfile|writefile"
    r"|pg_logical_\w+|pg_stats\w*|pg_statistic\w*|pg_largeobject\w*|sqlite_stat\d"
)
_NOT_ONE_TENANTS = re.compile(
    r"set_config|setval|pg_terminate_backend|pg_cancel_backend|pg_stat_(?:activity|statements\w*)|pg_prepared_\w+|pg_cursors"
    r"|pg_settings|pg_file_settings|pg_shadow|pg_authid|processlist"
)
_IDENTIFIER_BYTES = 63  # PostgreSQL cuts longer names off
_INTRODUCES_TABLES = frozenset(
    {
        "select",
        "table",
        "with",
        "from",
        "join",
        "insert",
        "update",
        "delete",
        "merge",
        "into",
        "using",
        "values",
    }
)
_SAFE_SETTINGS = frozenset(
    {"statement_timeout", "lock_timeout", "work_mem", "constraints", "timezone", "time", "enable_seqscan", "jit",
     "synchronous_commit", "idle_in_transaction_session_timeout", "foreign_keys", "datestyle"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawSql:
    """What was seen in a piece of raw SQL.

    Attributes:
        names: Lower-case identifiers that may be tables.
        introduces: True if the piece may bring in a table; another piece beside it may then name it.
        schemas: Lower-case identifiers in front of a dot.
        qualified: Each with the one behind its dot; either is empty where the piece ends there.
        bare: Names without a dot in front.
        strings: Lower-case texts in single quotes, which SQLite takes for names where only a name can be.
        opaque: Why it cannot be seen through, or None.
        meddles: Why no session of a tenant may run it (it changes whose work this is, a schema or a transaction), or None.
    """

    names: frozenset[str] = frozenset()
    introduces: bool = False
    schemas: frozenset[str] = frozenset()
    qualified: frozenset[tuple[str, str]] = frozenset()
    bare: frozenset[str] = frozenset()
    strings: frozenset[str] = frozenset()
    opaque: str | None = None
    meddles: str | None = None


@lru_cache(maxsize=2048)
def read_statement(sql: str) -> RawSql:
    """Judge a whole statement."""
    scanner = _scan(sql)
    words, opaque = scanner.words, scanner.opaque
    verb = words[0] if words else ""
    meddles = (
        None if verb in _PLAIN_VERBS or _is_safe_setting(words) else f"{verb.upper() or 'an empty statement'}"
    )
    if verb == "explain":
        inner = next(
            (word for word in words[1:] if word in _PLAIN_VERBS | {"create", "execute", "declare"}), ""
        )
        meddles = None if inner in _PLAIN_VERBS else f"EXPLAIN {inner.upper()}"
    if verb == "select" and "into" in words:
        meddles = "SELECT … INTO"
    if verb == "pragma" and not set(words[1:2]) <= _SAFE_SETTINGS | {
        "table_info",
        "index_list",
        "table_list",
        "user_version",
    }:
        meddles = "PRAGMA"
    if verb in {
        "do",
        "execute",
        "prepare",
        "call",
        "declare",
        "fetch",
        "copy",
        "handler",
        "load",
        "merge",
        "replace",
    }:
        opaque = opaque or verb.upper()
    return scanner.seen(introduces=True, opaque=opaque, meddles=meddles)


@lru_cache(maxsize=2048)
def read_fragment(sql: str) -> RawSql:
    """Judge a piece inside a statement that SQLAlchemy builds: an expression, a prefix, a hint."""
    scanner = _scan(sql)
    introduces = not _INTRODUCES_TABLES.isdisjoint(scanner.words)
    return scanner.seen(introduces=introduces, opaque=scanner.opaque, meddles=None)


def _scan(sql: str) -> _Scanner:
    scanner = _Scanner()
    if sql.lstrip().startswith("."):
        scanner.qualified.add(("", ""))
    scanner.read(sql)
    scanner.end()
    if scanner.depth > 0:
        scanner.doubt("an unbalanced parenthesis")
    return scanner


_DOUBTS = {
    "comment": "a comment",
    "stray": "an unbalanced quote",
    "unicode": "a name or text written in code points (U&)",
    "dollar": "dollar quoting",
}


class _Scanner:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.names: set[str] = set()
        self.qualified: set[tuple[str, str]] = set()
        self.bare: set[str] = set()
        self.strings: set[str] = set()
        self.opaque: str | None = None
        self.depth = 0
        self._last = ""
        self._before_dot = ""
        self._ended = False

    def seen(self, *, introduces: bool, opaque: str | None, meddles: str | None) -> RawSql:
        names = frozenset(self.names)
        return RawSql(
            names,
            introduces=introduces,
            schemas=frozenset(schema for schema, _ in self.qualified),
            qualified=frozenset(self.qualified),
            bare=frozenset(self.bare),
            strings=frozenset(self.strings),
            opaque=opaque,
            meddles=meddles or _meddling(names),
        )

    def doubt(self, reason: str) -> None:
        self.opaque = self.opaque or reason

    def read(self, sql: str) -> None:
        for match in _TOKEN.finditer(sql):
            self.take(match.lastgroup or "", match.group())

    def end(self) -> None:
        if self._before_dot:  # the other half of the name is in another piece
            self.qualified.add((self._before_dot, ""))

    def take(self, kind: str, text: str) -> None:
        if self._ended:
            self.doubt("several statements")
        if kind in {"word", "quoted", "brackets"}:
            self._take_name(kind, text)
            return
        self._before_dot, self._last = (self._last if kind == "dot" else ""), ""
        if kind in _DOUBTS:
            self.doubt(_DOUBTS[kind])
        elif kind == "string":
            self.strings.add(text[text.index("'") + 1 : -1].replace("''", "'").lower())
            if "\\'" in text:
                self.doubt("a backslash in front of a quote, which servers read differently")
        elif kind == "number":  # to MySQL a name may begin with digits
            self.names.update(text.lower().split("."))
        elif kind == "end":
            self._ended = True
        elif kind in {"open", "close"}:
            self.depth += 1 if kind == "open" else -1
            if self.depth < 0:
                self.doubt("an unbalanced parenthesis")

    def _take_name(self, kind: str, text: str) -> None:
        name = text.lower()
        if kind == "word":
            self.words.append(name)
        elif (
            kind == "brackets"
        ):  # a name to SQLite; to PostgreSQL an array or a place in one, which may hold a query
            name, before = name[1:-1], self._before_dot
            self.read(text[1:-1])
            self._before_dot = before
        else:
            name = name[1:-1].replace('""', '"').replace("``", "`")
            if "\\" in name:
                self.doubt("a backslash in quotes, which servers read differently")
        forms = {name, _cut(name)}
        self.names |= forms
        if self._before_dot:
            self.qualified |= {
                (schema, form) for schema in {self._before_dot, _cut(self._before_dot)} for form in forms
            }
        else:
            self.bare |= forms
        self._before_dot, self._last = "", name
        if _RUNS_SQL.fullmatch(name):
            self.doubt(f"{name}, which runs SQL, or reads files or what is known of all rows")


def _cut(name: str) -> str:
    if len(name) <= _IDENTIFIER_BYTES // 4:
        return name
    return name.encode()[:_IDENTIFIER_BYTES].decode(errors="ignore")


def _meddling(names: frozenset[str]) -> str | None:
    return next((name for name in sorted(names) if _NOT_ONE_TENANTS.fullmatch(name)), None)


def _is_safe_setting(words: list[str]) -> bool:
    if words[:1] != ["set"]:
        return False
    rest = words[2:] if words[1:2] in (["local"], ["session"]) else words[1:]
    return bool(rest) and rest[0] in _SAFE_SETTINGS
