"""The call of `accelerate` or `load` that a class of another package stands for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.artifact.names import is_artifact
from optimum_core.compat.arguments import IgnoredArgumentWarning
from optimum_core.compat.artifacts import check_artifact
from optimum_core.errors import OptionError

if TYPE_CHECKING:
    from optimum_core import AcceleratedModel

#: Names of the one graph of a directory that these packages write, which an artifact of ours need not have.
_USUAL = (None, "model.onnx", "model_optimized.onnx", "model_quantized.onnx", "openvino_model.xml")
#: Arguments that do not keep an artifact of ours from opening; it has no search, so `budget` is ignored then.
_OF_LOADING = frozenset({"task", "revision", "trust_remote_code", "options", "budget"})


@dataclass(frozen=True, kw_only=True)
class FromPretrained:
    """The arguments of one `from_pretrained`.

    Attributes:
        who: the class, for messages.
        place: a directory, a file or a hub's id.
        config: the configuration to read a checkpoint under; None: its own.
        shapes: lengths that calls will have, as of `accelerate`.
        further: other arguments of `accelerate`; those that are None or False are left out.
    """

    who: str
    place: Any
    target: str
    export: bool | None = None
    config: Any = None
    shapes: Sequence[Mapping[str, int]] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_made(self) -> bool:
        """Whether the place holds a model that is opened as it is, so that lengths of calls change nothing."""
        from optimum_core.models.sources.converted import converted_at

        return is_artifact(Path(self.place)) or converted_at(os.fspath(self.place)) is not None

    def open(self) -> AcceleratedModel:
        """Return `load(place, target=…)` of an artifact of ours, or else `accelerate(place, target=…, …)`.

        Raises:
            OptionError: `export`, `config` or the task of the class contradicts what is there.
            UnavailableError: the class's backend does not load the files of the artifact.
        """
        from optimum_core import accelerate

        asked = {"shapes": self.shapes, **self.further}
        given = {name: value for name, value in asked.items() if value is not None and value is not False}
        if is_artifact(Path(self.place)):
            return self._load(given)
        if self.export is False and not _is_exported(self.place):
            why = f"False, and {str(self.place)!r} holds no exported model"
            raise OptionError(f"{self.who}, export", why, "leave export out: what is not exported yet is exported")
        model = accelerate(self._model(), target=self.target, **given)
        if given.get("quantize"):
            say_if_not_quantized(self.who, model)
        return model

    def _load(self, given: Mapping[str, Any]) -> AcceleratedModel:
        from optimum_core import load

        changing = sorted(set(given) - _OF_LOADING)
        if self.export or changing:
            name = "export" if self.export else changing[0]
            why = f"{str(self.place)!r} holds a model that is accelerated already"
            raise OptionError(
                f"{self.who}, {name}", why, f"leave {name} out, or give the checkpoint that it was made from"
            )
        check_artifact(self.who, Path(self.place), given.get("task"), self.target.partition(":")[0])
        self._model()
        return load(self.place, target=self.target, options=given.get("options"))

    def _model(self) -> Any:
        """Return what to accelerate: the place, or the model of a checkpoint under another configuration."""
        if self.config is None:
            return self.place
        from optimum_core.models.sources.configured import configured

        trusted = bool(self.further.get("trust_remote_code"))
        return configured(
            self.place, self.config, who=self.who, revision=self.further.get("revision"), trust_remote_code=trusted
        )


def say_if_not_quantized(who: str, model: AcceleratedModel) -> None:
    """Warn of a model that stayed as it was, since no quantized one was as right as was asked for."""
    if not model.manifest.quantized:
        notes = model.report.notes if model.report is not None else ()
        reason = f": {notes[0]}" if notes else ""
        warnings.warn(f"{who}: the model is not quantized{reason}", IgnoredArgumentWarning, stacklevel=4)


def place_of(who: str, model_id: Any, file_name: str | None, subfolder: str, revision: str | None) -> Any:
    """Return what to open: a directory or a hub's id as it is, or a file or folder of it.

    Raises:
        OptionError: there is no such file or folder in a directory.
        SourceError: the hub does not give it.
    """
    if not isinstance(model_id, str | os.PathLike):
        raise OptionError(f"{who}, model_id", f"it is a {type(model_id).__name__}", "give a directory or a hub id")
    given = Path(model_id).expanduser()
    place = given / subfolder
    if (file_name is None and not subfolder) or (is_artifact(place) and file_name in _USUAL):
        return place if place.is_dir() else model_id
    if not given.exists():
        from optimum_core.models.pretrained import download_part

        place = download_part(str(model_id), subfolder, file_name, revision=revision) / subfolder
    found = place / file_name if file_name is not None else place
    if not found.exists():
        name = "file_name" if file_name is not None else "subfolder"
        raise OptionError(f"{who}, {name}", f"{str(found)!r} is no file or directory here", f"check {name}")
    return found


def exporting(export: bool | None, from_transformers: bool | None) -> bool | None:
    """Return whether to export, which the first versions of these packages called `from_transformers`."""
    return from_transformers if export is None else export


def _is_exported(place: Any) -> bool:
    path = Path(place)
    if path.is_file():
        return path.suffix in (".onnx", ".xml")
    return any(any(path.glob(pattern)) for pattern in ("*.onnx", "onnx/*.onnx", "*.xml", "*/*.xml"))
