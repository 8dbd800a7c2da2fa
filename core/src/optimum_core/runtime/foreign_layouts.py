"""Saving of a model as other packages read it: without a manifest, in the form of a backend's `ForeignFormat`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from optimum_core.artifact import Manifest
from optimum_core.artifact.durable import aside, move_in, remove, sync_tree
from optimum_core.artifact.embedding import MODULES, write_object
from optimum_core.artifact.meaning import is_beside
from optimum_core.artifact.names import MANIFEST
from optimum_core.artifact.store import GONE
from optimum_core.errors import ArtifactError, OptionError, SourceError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.sources.sentences.behind import read_behind
from optimum_core.models.sources.sentences.directory import read_modules
from optimum_core.plugins import PluginManager
from optimum_core.runtime.pickling import require_files
from optimum_core.types import ForeignFormat
from optimum_core.types.state import CROSS, DECODER, ENCODER


def save_as(
    layout: str,
    manifest: Manifest,
    files: Mapping[str, Path],
    directory: Path,
    place: Path,
    plugins: PluginManager,
    *,
    overwrite: bool,
) -> None:
    """Write the model with its configuration, tokenizer and generation settings.

    Args:
        layout: the name of a form that an installed backend writes.
        files: those to write, by name.
        directory: holds the model's own files.
        place: a new or empty directory, or with `overwrite` one that holds other files.

    Raises:
        OptionError: no backend writes such a layout.
        UnavailableError: it has no form for this model, or the modules of a sentence encoder cannot lie behind it.
        ArtifactError: the directory holds files, or cannot be written; or the model's own files are no longer those
            that were opened, since nothing in this layout would tell another model from it.
    """  # fmt: skip
    form = _form(layout, manifest, plugins)
    require_files(manifest, directory, "it is saved from", GONE)
    _check_modules(layout, manifest, directory)
    if place.exists() and any(place.iterdir()) and not overwrite:
        why = "the directory is not empty"
        raise ArtifactError(f"layout {layout!r}, {place}", why, "choose another place, or pass overwrite=True")
    place.parent.mkdir(parents=True, exist_ok=True)
    made = aside(place.resolve(), "tmp")
    try:
        made.mkdir()
        assert form.release is not None
        form.release(manifest.artifact(directory), made)
        for name, origin in files.items():
            if is_beside(name, manifest.part_files) and not (made / name).exists():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin, made / name)
        _place_transformer(made, manifest.model.name)
        if place.exists():
            shutil.copytree(
                place, made, ignore=lambda folder, names: _there(Path(folder), names, place, made), dirs_exist_ok=True
            )
        sync_tree(made)
        move_in(made, place.resolve())
    except BaseException:
        remove(made)
        raise


def _check_modules(layout: str, manifest: Manifest, directory: Path) -> None:
    """Refuse a sentence encoder whose modules cannot be read from the files beside the graph, or change the vectors of
    tokens.

    In that layout the graph is the transformer alone, and its modules follow it. A graph that pools and that no modules
    lie beside, or that gives no token vectors, is copied as it is.
    """
    if not manifest.artifact(directory).pools_by_modules:
        return
    try:
        behind = read_behind(directory, manifest.model.name)
        if behind.changes_tokens:
            why = "a module changes the vectors of tokens, which the graph gives after it"
            raise SourceError(f"model {manifest.model.name!r}", why, "")
    except (SourceError, UnavailableError) as error:
        why = f"layout {layout!r} has no form for it: {error.why}"
        raise UnavailableError(error.who, why, "save it without layout=, and open it by load()") from error


def _place_transformer(directory: Path, name: str) -> None:
    """Say that the transformer of a sentence encoder lies beside the list of its modules, as it does here.

    A list that is not understood, beside a graph that pools itself, stays as it is.
    """
    modules = directory / MODULES
    try:
        read_modules(directory, name)
    except SourceError:
        return
    listed = json.loads(modules.read_text(encoding="utf-8"))
    if listed[0]["path"]:
        listed[0]["path"] = ""
        write_object(modules, listed)


def _there(folder: Path, names: Iterable[str], place: Path, made: Path) -> list[str]:
    """Return the names of files that were written anew, and of the manifest, which describes other files."""
    below = made / folder.relative_to(place)
    return [name for name in names if (below / name).is_file() or (folder == place and name == MANIFEST)]


def _form(layout: str, manifest: Manifest, plugins: PluginManager) -> ForeignFormat:
    supports = plugins.supports(detect())
    forms = [
        (name, form) for name, support in supports.items() for form in support.foreign if form.layout and form.release
    ]
    known = dict.fromkeys(form.layout for _, form in forms)
    if layout not in known:
        why = f"{layout!r} is no layout that a backend here writes"
        raise OptionError("layout", why, f"use one of: {', '.join(known) or 'none'}; or leave it out")
    who = f"model {manifest.model.name!r}"
    formats = {form.format: form for _, form in forms if form.layout == layout}
    if set(manifest.parts) not in (set(), {DECODER}, {ENCODER, CROSS, DECODER}):
        parts = ", ".join(manifest.parts)
        why = f"it consists of the parts {parts}, for which layout {layout!r} has no form"
        raise UnavailableError(who, why, "save it without layout=, and open it by load()")
    format = next((part.format for part in manifest.parts.values()), manifest.format)
    if format not in formats:
        able = [
            name for name, support in supports.items()
            if any(set(offer.loads) & set(formats) and offer.proof == "device" for offer in support.offers)
        ]  # fmt: skip
        why = f"it is of the format {format!r}, and layout {layout!r} is of {' or '.join(sorted(formats))}"
        remedy = f"accelerate it with target={' or target='.join(map(repr, able)) or 'a backend of these formats'}"
        raise UnavailableError(who, why, remedy)
    return formats[format]
