"""Lay out the pages of the site: which file becomes which page, and links between files as links between pages.
Figures (docs/figures) are copied.

Run as `python docs/site/pages.py DIRECTORY`; `make docs` builds the site from that directory.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
#: Files outside of docs/ that are pages too.
_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/benchmarks/README.md": "measuring.md",
    "core/src/optimum_core/hookspecs.py": "reference/hookspecs.md",
}
_LINK = re.compile(r"\[(?P<label>[^\]]*)\]\((?!https?:|#)(?P<file>[^)#\s]+)(?P<place>#[^)\s]*)?\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


class BrokenLinkError(Exception):
    """A link leads to no file."""


def pages() -> dict[str, str]:
    """Return the page or place of each file and figure, both relative: the file to the repository, the page to the
    site."""
    found = {str(_relative(file)): str(PurePosixPath(*_relative(file).parts[1:])) for file in sorted(_documents())}
    packages = {str(_relative(file)): f"packages/{file.parent.name}.md" for file in ROOT.glob("plugins/*/README.md")}
    figures = {str(_relative(file)): f"figures/{file.name}" for file in (ROOT / "docs" / "figures").glob("*.svg")}
    elsewhere = {file: page for file, page in _ELSEWHERE.items() if (ROOT / file).exists()}
    return {**found, **packages, **figures, **elsewhere}


def lay_out(directory: Path) -> None:
    """Write all pages and the configuration into a directory.

    Raises:
        BrokenLinkError: a link leads to no file; the message names both.
    """
    known = pages()
    shutil.copytree(HERE / "pages", directory / "pages", dirs_exist_ok=True)
    shutil.copy(HERE / "zensical.toml", directory)
    for file, page in known.items():
        place = directory / "pages" / page
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".svg"):
            shutil.copy(ROOT / file, place)
        if not file.endswith(".md"):
            continue
        place.write_text(relinked((ROOT / file).read_text(encoding="utf-8"), file, known), encoding="utf-8")


def relinked(text: str, file: str, known: Mapping[str, str]) -> str:
    """Return a file's text with its links to files as links to their pages; links to files that are no pages, such as
    source code, become plain text. Code is left as it is."""
    parts, end = list[str](), 0
    for code in _CODE.finditer(text):
        parts += _links(text[end : code.start()], file, known), code.group()
        end = code.end()
    return "".join((*parts, _links(text[end:], file, known)))


def _links(text: str, file: str, known: Mapping[str, str]) -> str:
    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(file).parent / match["file"])
        if not (ROOT / target).exists():
            raise BrokenLinkError(f"{file} links to {match['file']}, which does not exist")
        if target not in known:
            return match["label"]
        page = os.path.relpath(known[target], PurePosixPath(known[file]).parent)
        return f"[{match['label']}]({page}{match['place'] or ''})"

    return _LINK.sub(link, text)


def _documents() -> Iterator[Path]:
    return (file for file in (ROOT / "docs").rglob("*.md") if HERE not in file.parents)


def _relative(file: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(ROOT).as_posix())


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
