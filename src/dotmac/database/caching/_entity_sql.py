"""What a piece of SQL may change, told by its words: it errs on the side of changing too much.

A statement that writes changes every table it names, and what foreign keys with an action hang on those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import ForeignKeyConstraint, Table

_WORD = re.compile(r"\w+")
_LOCKS = re.compile(r"\bfor\s+(?:no\s+key\s+)?update\b")
_SET = re.compile(r"\bset\b(.*?)(?:\bwhere\b|\breturning\b|\Z)", re.DOTALL)
_SNAPSHOT = re.compile(r"\bisolation\s+level\b|\btransaction_isolation\b")
_VERBS = frozenset({"insert", "update", "delete", "merge", "truncate", "drop", "alter", "copy"})
_FIRST_VERBS = _VERBS | {"replace", "load"}
_UNSEEN_VERBS = frozenset({"call", "do", "execute", "exec"})
_CHANGES = frozenset({"update", "delete", "merge", "truncate", "replace", "drop", "alter"})
_REMOVES = frozenset({"delete", "merge", "truncate", "drop", "replace"})


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement, as far as its words tell.

    Attributes:
        first: Its first word.
        words: All its words, in lower case.
        set_words: The words of its SET clause, if it is an UPDATE.
        writes: True if it may write at all.
        only_inserts: True if it adds rows and changes none.
        is_unseen: True if it runs code that may write anywhere.
        sets_isolation: True if it may change which snapshot the transaction reads.
    """

    first: str
    words: frozenset[str]
    set_words: frozenset[str]
    writes: bool
    only_inserts: bool
    is_unseen: bool
    sets_isolation: bool


def read_sentence(sql: str) -> Sentence:
    """The words of ``sql``, judged."""
    lowered = sql.lower()
    found = _WORD.search(lowered)
    first = found.group() if found else ""
    words = frozenset(_WORD.findall(_LOCKS.sub(" ", lowered) if "update" in lowered else lowered))
    is_unseen = first in _UNSEEN_VERBS
    writes = is_unseen or first in _FIRST_VERBS or not words.isdisjoint(_VERBS)
    only_inserts = first in {"insert", "copy"} and words.isdisjoint(_CHANGES)
    set_words = frozenset[str]()
    if first == "update" and words.isdisjoint(_CHANGES - {"update"}):
        set_words = frozenset(word for part in _SET.findall(lowered) for word in _WORD.findall(part))
    sets_isolation = _SNAPSHOT.search(lowered) is not None
    return Sentence(first, words, set_words, writes, only_inserts, is_unseen, sets_isolation)


class Reach:
    """Which statements may change rows of one table.

    Args:
        table: The table; its foreign keys, and those of the tables they lead to, are followed upwards.
    """

    def __init__(self, table: Table) -> None:
        self.name = table.name.lower()
        self._own = words_of(table.name)
        self._removed: list[frozenset[str]] = []
        self._updated: list[tuple[frozenset[str], frozenset[str]]] = []
        self._follow(table, {table.name})

    def _follow(self, table: Table, seen: set[str]) -> None:
        for constraint in table.foreign_key_constraints:
            parent, columns = _target(constraint)
            name = parent.rsplit(".", 1)[-1]
            if _acts(constraint.ondelete):
                self._removed.append(words_of(name))
            if _acts(constraint.onupdate):
                self._updated.append((words_of(name), columns))
            if not (_acts(constraint.ondelete) or _acts(constraint.onupdate)) or name in seen:
                continue
            seen.add(name)
            above = table.metadata.tables.get(parent)
            if above is not None:
                self._follow(above, seen)

    def is_named(self, sentence: Sentence) -> bool:
        """True if the statement names the table itself."""
        return self._own <= sentence.words

    def is_reached(self, sentence: Sentence) -> bool:
        """True if the statement may change rows of it through foreign keys."""
        removes = not sentence.words.isdisjoint(_REMOVES)
        if removes and any(name <= sentence.words for name in self._removed):
            return True
        if "update" not in sentence.words and not removes:
            return False
        changed = sentence.set_words
        return any(
            name <= sentence.words and (not changed or not columns.isdisjoint(changed))
            for name, columns in self._updated
        )


def words_of(name: str) -> frozenset[str]:
    """The words of which an identifier consists."""
    return frozenset(_WORD.findall(name.lower()))


def _acts(action: str | None) -> bool:
    return action is not None and action.upper() not in {"RESTRICT", "NO ACTION"}


def _target(constraint: ForeignKeyConstraint) -> tuple[str, frozenset[str]]:
    names = [element.target_fullname.rsplit(".", 1) for element in constraint.elements]
    return names[0][0], frozenset(column.lower() for _, column in names)
