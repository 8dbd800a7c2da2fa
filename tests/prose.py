"""Check of the prose in sources, tests and docs: `python -m tests.prose`, part of `make check`.

Docstrings say what a thing does or is, so none begins with a question word; and words that name no part of the program
(nobody, somebody, …) stay out of all three.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = re.compile(r"\b(nobody|somebody|whoever|everybody|anybody)\b", re.IGNORECASE)
QUESTIONS = re.compile(r"(What|Who|Which|How|Where|Why|When)\b")
#: Names in examples.
ALLOWED = ("somebody/",)


def problems() -> Iterator[str]:
    """Yield one line for each docstring or word that is not as it should be."""
    roots = (ROOT / "core", ROOT / "plugins", ROOT / "tests", ROOT / "docs")
    sources = [path for root in roots for path in root.rglob("*.py") if path != Path(__file__)]
    readmes = (path for root in roots[:3] for path in root.rglob("README.md"))
    pages = [*(ROOT / "docs").rglob("*.md"), *readmes, *ROOT.glob("*.md")]
    for path in sorted((*sources, *pages)):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if WORDS.search(line) and not any(name in line for name in ALLOWED):
                yield f"{path.relative_to(ROOT)}:{number}: name the thing instead: {line.strip()}"
    for path in sorted(sources):
        for number, first in _docstrings(path):
            if QUESTIONS.match(first):
                yield f"{path.relative_to(ROOT)}:{number}: say what it does or is: {first}"


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text.splitlines()[0]


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found), file=sys.stderr)  # noqa: T201
    sys.exit(bool(found))
