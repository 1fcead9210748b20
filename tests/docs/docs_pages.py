"""A page's code blocks, and a page as a program: ``python docs_pages.py PAGE`` runs its Python blocks in order.

Blocks of one page share their names. A block may await; one that does not is run outside any event loop, so that it may
call ``asyncio.run``. A block under ``<!-- no-run: reason -->`` is compiled only.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "MIGRATION.md", *(ROOT / "docs").rglob("*.md")]
    if page.is_file()
)

_BLOCK = re.compile(
    r"^(?P<no_run><!-- no-run: [^\n]+ -->\n\n?)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: What stands behind the fence.
        line: Number of its first line of code in the page.
        code: Its text, without the indentation of the fence.
        is_run: False under ``<!-- no-run: … -->``.
    """

    language: str
    line: int
    code: str
    is_run: bool


def blocks(page, *languages):
    """The page's blocks in these languages, in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], line, code, match["no_run"] is None))
    return [block for block in found if block.language in languages]


def run(page):
    """Run the page; the first error is raised with the page's own line numbers."""
    names = {"__name__": page.stem.replace("-", "_")}
    linecache.cache[str(page)] = (
        len(page.read_text()),
        None,
        page.read_text().splitlines(keepends=True),
        str(page),
    )
    with asyncio.Runner() as runner:
        for block in blocks(page, "python"):
            code = compile(
                "\n" * (block.line - 1) + block.code,
                str(page),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            if not block.is_run:
                continue
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(eval(code, names))  # noqa: S307 - the project's own page
            else:
                exec(code, names)  # noqa: S102 - the project's own page


if __name__ == "__main__":
    run(Path(sys.argv[1]))
