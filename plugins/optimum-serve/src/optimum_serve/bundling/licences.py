"""Licences of wheels and of models, as their own files state them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

NOT_STATED = "not stated"
_CLASSIFIER = "License :: "
_FILES = ("license", "licence", "copying", "notice", "authors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """The licence of a wheel.

    Attributes:
        said: the expression or name in its metadata.
        texts: the files of licences in it, by their last part.
    """

    name: str
    version: str
    said: str
    texts: dict[str, bytes]


def of_wheel(wheel: Path) -> Licence:
    """Return the licence of a wheel."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        found = BytesParser().parsebytes(archive.read(metadata))
        folder = PurePosixPath(metadata).parent
        texts = {
            PurePosixPath(name).name: archive.read(name)
            for name in names
            if folder in PurePosixPath(name).parents and PurePosixPath(name).name.lower().startswith(_FILES)
        }
    return Licence(name=str(found["Name"]), version=str(found["Version"]), said=_said(found), texts=texts)


def _said(metadata: Message) -> str:
    """Return the expression, the name, or the classifiers, of which newer metadata have the first alone."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = [str(one) for one in metadata.get_all("Classifier", []) if str(one).startswith(_CLASSIFIER)]
    stated = str(metadata["License"] or "").strip()
    if stated and "\n" not in stated:
        return stated
    return "; ".join(one.rpartition(" :: ")[2] for one in classifiers) or NOT_STATED


def of_model(directory: Path) -> str:
    """Return the licence in the header of a model's card."""
    try:
        lines = (directory / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return NOT_STATED
    return next((value for value in _header(lines, "license")), NOT_STATED)


def _header(lines: Sequence[str], key: str) -> Iterator[str]:
    if not lines or lines[0].strip() != "---":
        return
    for line in lines[1:]:
        if line.strip() == "---":
            return
        name, _, value = line.partition(":")
        if name == key and value.strip():
            yield value.strip()


def listed(licences: Sequence[Licence], models: Sequence[tuple[str, str]]) -> str:
    """Return the text of the list.

    Args:
        models: names with their licences.
    """
    lines = ["Licences of what this bundle holds; their texts are in licences/.", "", "Models"]
    lines += [f"  {name}: {said}" for name, said in models]
    lines += ["", "Packages"]
    ordered = sorted(licences, key=lambda one: one.name.lower())
    lines += [f"  {one.name} {one.version}: {one.said}" for one in ordered]
    return "\n".join(lines) + "\n"
