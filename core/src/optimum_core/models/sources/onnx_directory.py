"""Directories of ONNX files as Optimum and others write them: a graph beside its configuration and tokenizer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.artifact.embedding import MODULES, SENTENCE
from optimum_core.artifact.names import is_artifact
from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import SourceError, UnavailableError
from optimum_core.models import fingerprint, pretrained
from optimum_core.models.sources import files
from optimum_core.models.sources.agreement import read_description
from optimum_core.models.sources.companions import companions, modules_of
from optimum_core.models.sources.onnx_file import OnnxSource
from optimum_core.models.sources.sentences.behind import read_behind
from optimum_core.models.sources.sentences.stored import weights_of, without_pickles

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = "onnx"
_FIRST = "model.onnx"
#: The manifest of transformers' exporters.
_EXPORT = "export.json"
#: Names of graphs that are parts of one model.
_ENCODER, _DECODER = "encoder_model", "decoder_model"
_CACHED, _MERGED = "decoder_with_past_model.onnx", "decoder_model_merged.onnx"
_PARTS = (_ENCODER, _DECODER, "decoder_with_past_model", "text_encoder", "vision_encoder")
_HIDDEN_STATE, _FEATURES = "last_hidden_state", "feature-extraction"


def the_file(directory: Path, name: str) -> Path | None:
    """Return the graph that is the model of a directory without weights for PyTorch; None: it holds none.

    Raises:
        SourceError: it holds parts of one model, or several graphs of which none has the usual name.
    """
    if is_artifact(directory) or files.has_weights(directory):
        return None
    found = sorted(path for place in (directory, directory / _FOLDER) for path in place.glob("*.onnx"))
    if not found:
        return None
    who = f"model {name!r}"
    if pointers := [path for path in found if is_pointer(path)]:
        raise files.refuse_file(pointers[0], who)
    if parts := [path.name for path in found if path.stem.startswith(_PARTS)] or _components(directory):
        raise SourceError(who, _apart(parts), _original_of(directory))
    first = [path for path in found if path.name == _FIRST] or found
    if len(first) > 1 and first is found:
        told = ", ".join(str(path.relative_to(directory)) for path in found[:4])
        raise SourceError(who, f"it holds {len(found)} ONNX files ({told})", f"pass one of them: {str(found[0])!r}")
    return first[0]


def _apart(parts: list[str]) -> str:
    """Return why the graphs of one model are not joined."""
    if {f"{_ENCODER}.onnx", f"{_DECODER}.onnx"} <= set(parts):
        why = f"it holds {_DECODER}.onnx, which keeps no cache, and neither {_CACHED} nor {_MERGED}, which do"
        return f"{why} (Optimum exports them for a task that ends in -with-past)"
    return f"its graphs {', '.join(parts)} are parts of one model, which are not joined here"


def _components(directory: Path) -> list[str]:
    """Return the graphs of a model that transformers' exporters saved in several, by generation stage; else none."""
    manifest = directory / _EXPORT
    if not manifest.is_file():
        return []
    components = files.read_json(manifest).get("components")
    named = [str(item.get("file")) for item in components.values()] if isinstance(components, dict) else []
    return named if len(named) > 1 else []


def _original_of(directory: Path) -> str:
    """Return the remedy that names the checkpoint from which the parts were exported, where it is known."""
    try:
        named = files.read_json(directory / "config.json").get("_name_or_path")
    except SourceError:
        named = None
    example = f"accelerate({named!r})" if named else 'accelerate("owner/name")'
    return f"accelerate the checkpoint that they were exported from, which generates with its cache: {example}"


def described_beside(path: Path) -> Path | None:
    """Return the directory whose `config.json` describes a graph: its own, or that around a folder "onnx"."""
    places = (path.parent, path.parent.parent) if path.parent.name == _FOLDER else (path.parent,)
    return next((place for place in places if (place / "config.json").is_file()), None)


class OnnxDirectorySource(OnnxSource):
    """A graph beside a `config.json`, from which come the task, the names of classes, and the processor.

    Args:
        path: the graph.
        directory: holds the configuration.
        name: its name in messages.

    Raises:
        SourceError: the configuration is no JSON.
    """

    def __init__(self, path: Path, directory: Path, *, name: str, processor: Any = None) -> None:
        self.described = read_description(directory)
        super().__init__(path, processor=processor if processor is not None else pretrained.read_processor(directory))
        self.directory = directory
        self._name = name
        self.passed_processor = processor
        self.notes = (*self.notes, *self._remarks())

    def _remarks(self) -> tuple[str, ...]:
        others = sorted(path.name for path in self.path.parent.glob("*.onnx") if path != self.path)
        chosen = (f"{self.path.name} was taken, and not {', '.join(others)} beside it",) if others else ()
        if (self.directory / MODULES).is_file() and SENTENCE not in self._outputs():
            return *chosen, self._about_modules()
        return chosen

    def _about_modules(self) -> str:
        """Say whether the modules that lie beside the graph are applied: `encode` refuses, or reads the same."""
        try:
            included = read_behind(self.directory, self._name).include_prompt
            why = "" if included else "it leaves the tokens of prompts out, for which the graph has no input"
        except (SourceError, UnavailableError) as error:
            why = error.why
        if why:
            return f"{self.path.name} is the transformer alone: what {MODULES} lists behind it is NOT done: {why}"
        return f"{self.path.name} is the transformer alone: what {MODULES} lists is done behind it"

    def _outputs(self) -> tuple[str, ...]:
        import onnx

        return tuple(output.name for output in onnx.load(self.path, load_external_data=False).graph.output)

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def config(self) -> Any:
        """The configuration, if transformers knows it; else None."""
        try:
            return pretrained.read_config(self.directory, self._name, trust_remote_code=False)
        except SourceError:
            return None

    @property
    def class_name(self) -> str:
        """The name of the class that it was exported from; of a graph that gives hidden states, none."""
        named = getattr(self.config, "architectures", None) or ("",)
        return "" if _HIDDEN_STATE in self._outputs() else str(named[0])

    @property
    def task(self) -> str | None:
        """The task, by the outputs or by the class that the configuration names."""
        return _FEATURES if _HIDDEN_STATE in self._outputs() else super().task

    @cached_property
    def fingerprint(self) -> str:
        modules = {**modules_of(self.directory), **weights_of(self.directory)}
        described = (self.directory / "config.json", *modules.values())
        return super().fingerprint + "".join(fingerprint.of_file(file) for file in described)

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return self.directory

    def companions(self) -> Mapping[str, Path]:
        """Return configuration, tokenizer and processor files."""
        found = {name: path for name, path in companions(self.directory).items() if name != "ort_config.json"}
        return {**found, **modules_of(self.directory)}

    def save_companions(self, directory: Path) -> None:
        """Write the processor that was passed, if any, and weights of modules that lie in pickles."""
        without_pickles(self.directory, directory)
        if hasattr(self.passed_processor, "save_pretrained"):
            self.passed_processor.save_pretrained(directory)
