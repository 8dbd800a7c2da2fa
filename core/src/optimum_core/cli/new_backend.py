"""`optimum-core new-backend`: a complete distribution of a backend, whose tests pass as it is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import mkdtemp
from typing import Annotated

import typer

from optimum_core import __version__
from optimum_core.errors import ArtifactError, OptionError

_NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
_SUFFIX = ".template"
_PACKAGE = "package"


def new_backend(
    name: Annotated[str, typer.Argument(help="What users will pass as target: lower-case letters, digits, '-'.")],
    into: Annotated[Path, typer.Option(help="The directory in which to create optimum-NAME.")] = Path(),
) -> None:
    """Write a backend of your own, with its tests: it works as it is, and waits for your engine."""
    folder = write_distribution(name, into)
    typer.echo(f"Wrote {folder}. Next:\n  cd {folder}\n  pip install -e '.[testing]'\n  pytest")


def write_distribution(name: str, into: Path) -> Path:
    """Write the distribution of a backend, whole or not at all, and return its directory.

    Raises:
        OptionError: no backend can have the name, or an installed one has it.
        ArtifactError: the directory exists, or cannot be written.
    """
    _check_name(name)
    folder = into / f"optimum-{_words(name, '-')}"
    if folder.exists():
        raise ArtifactError(f"directory {folder}", "it exists", "choose another name, or another directory by --into")
    try:
        into.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix=f".{folder.name}-", dir=into))
        try:
            _fill(part / folder.name, _values(name))
            (part / folder.name).rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        remedy = "choose another directory by --into"
        raise ArtifactError(f"directory {folder}", f"it cannot be written: {error.strerror}", remedy) from error
    return folder


def _check_name(name: str) -> None:
    from optimum_core.plugins import manager
    from optimum_core.plugins.discovery import NAME_REMEDY, name_problem
    from optimum_core.plugins.naming import known_backends

    who = f"backend {name!r}"
    if name_problem(name) or not _NAME.fullmatch(name):
        raise OptionError(who, "a new backend cannot have this name", f"{NAME_REMEDY}; the first is a letter")
    taken = next((info for info in manager().infos() if info.name == name), None)
    if taken is not None or name in known_backends():
        owner = taken.distribution if taken is not None and taken.distribution else "Optimum Core's own packages"
        raise OptionError(who, f"the name is taken by {owner}", "choose another")
    package = _values(name)["package"]
    if find_spec(package) is not None:
        raise OptionError(who, f"the name is taken by the installed package {package}", "choose another")


def _values(name: str) -> dict[str, str]:
    title = "".join(part.capitalize() for part in re.split(r"[._-]", name))
    major, minor = __version__.split(".")[:2]
    return {
        "name": name,
        "distribution": f"optimum-{_words(name, '-')}",
        "package": f"optimum_{_words(name, '_')}",
        "options": f"{title}Options",
        "session": f"{title}Session",
        "suite": f"Test{title}",
        "requirement": f"optimum-core>={major}.{minor},<{major}.{int(minor) + 1}",
    }


def _words(name: str, mark: str) -> str:
    return re.sub(r"[._-]", mark, name)


def _fill(folder: Path, values: dict[str, str]) -> None:
    """Write every file of the template into `folder`."""
    for parts, source in _templates(files("optimum_core.cli") / "backend_template"):
        names = ("src", values["package"], *parts[1:]) if parts[0] == _PACKAGE else parts
        place = folder.joinpath(*names)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = Template(source.read_text(encoding="utf-8")).substitute(values)
        place.write_text(text, encoding="utf-8", newline="\n")


def _templates(folder: Traversable, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    """Yield the files of the template, each with the parts of its path, without the suffix."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _templates(item, (*above, item.name))
        elif item.name.endswith(_SUFFIX):
            yield (*above, item.name.removesuffix(_SUFFIX)), item
