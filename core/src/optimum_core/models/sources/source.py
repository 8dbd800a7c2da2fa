"""Sources: one interface to every kind of model that a user passes. Weights are read only when `module` is called."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.artifact.embedding import write_object
from optimum_core.artifact.names import is_artifact
from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import SourceError
from optimum_core.models import fingerprint, pretrained
from optimum_core.models.sources import checkpoint, files, forms, pretrained_cfg
from optimum_core.models.sources.companions import companions
from optimum_core.models.tasks import SENTENCES, resolve_class
from optimum_core.models.weights import state_tensors

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature
    from optimum_core.models.sources.converted import ConvertedSource
    from optimum_core.models.sources.onnx_file import OnnxSource

_WAS_TRAINING = "the model was in training mode; it is accelerated as it answers after model.eval()"


class _Eager:
    """The common part of sources that torch itself runs, as opposed to an already exported file."""

    format: str | None = None
    is_quantized = False
    precision: str | None = None  # no graph yet
    held_to: str | None = None
    passed_processor: Any = None  # what was passed beside the model, which its files do not hold
    notes: tuple[str, ...] = ()

    def compare_with_original(self, signature: ModelSignature) -> None:
        """Compare the eager model with another reading of it, where there is one; here, the model is what was given."""

    def check_outputs(self, signature: ModelSignature) -> None:
        """Compare nothing: the configuration and the outputs are of one model."""

    @property
    def task(self) -> str | None:
        """The task, where the model's own class does not tell it."""
        return None

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return None

    def samples(self) -> dict[str, Any] | None:
        """Return one call's inputs if the model itself declares them; a torch model does not."""
        return None


class MemorySource(_Eager):
    """A `torch.nn.Module` in memory, of transformers or any other.

    Exports and checks run on a twin in evaluation mode that shares the weights, so that the user's own module is never
    changed. They run in 32-bit floats: a model in lower precision is copied once.
    """

    def __init__(self, module: Any, *, processor: Any = None, trust_remote_code: bool = False) -> None:
        self._given = module
        self.notes = (_WAS_TRAINING,) if getattr(module, "training", False) else ()
        self.passed_processor = processor
        self._trust = trust_remote_code

    @property
    def name(self) -> str:
        origin = getattr(self._given, "name_or_path", "")
        return Path(origin).name if origin else type(self._given).__name__

    @property
    def config(self) -> Any:
        return getattr(self._given, "config", None)

    @property
    def generation_config(self) -> Any:
        """The model's generation settings; None: it has none."""
        return getattr(self._given, "generation_config", None)

    @property
    def class_name(self) -> str:
        """The name of its transformers class; empty for any other model."""
        cls = type(self._given)
        return cls.__name__ if cls.__module__.startswith("transformers.") else ""

    @property
    def in_memory(self) -> bool:
        return True

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint.of_module(self._given)

    @property
    def held_in(self) -> str:
        """The precision of its weights as they were given."""
        return checkpoint.precision_of_module(self._given)

    @cached_property
    def _module(self) -> Any:
        return _twin(self._given)

    def module(self) -> Any:
        """Return a copy of the eager model that has seen no call, in evaluation mode; it shares the model's weights."""
        return _fresh(self._module)

    @cached_property
    def processor(self) -> Any:
        """The processor that the user passed, or that of the directory that the model was read from; or None."""
        if self.passed_processor is not None or not self._origin:
            return self.passed_processor
        return pretrained.read_processor(self._origin, trust_remote_code=self._trust)

    def size(self) -> int:
        """Return the size of its weights in bytes."""
        return _weight_bytes(self._given)

    @property
    def _origin(self) -> Path | None:
        origin = Path(getattr(self._given, "name_or_path", "") or "/nonexistent")
        return origin if origin.is_dir() else None

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return self._origin

    def companions(self) -> dict[str, Path]:
        """Return processor files of the directory that it was read from; configuration comes from the model itself."""
        found = companions(self._origin) if self._origin else {}
        return {name: path for name, path in found.items() if name not in ("config.json", "generation_config.json")}

    def save_companions(self, directory: Path) -> None:
        """Write configuration, generation settings and processor as they are in memory."""
        config = pretrained.named(self.config, self.class_name)
        for part in (config, getattr(self._given, "generation_config", None), self.passed_processor):
            if part is not None and hasattr(part, "save_pretrained"):
                part.save_pretrained(directory)
        if self.config is None and (described := pretrained_cfg.configuration(self._given)) is not None:
            write_object(directory / "config.json", described)

    def samples(self) -> dict[str, Any] | None:
        """Return one call's inputs where the model declares them, as those of timm do."""
        return pretrained_cfg.samples(self._given) if self.config is None else None


class DirectorySource(_Eager):
    """A model saved by `save_pretrained`, on disk or downloaded from a hub.

    Args:
        directory: holds `config.json` and the weights.
        name: its name in messages.
        trust_remote_code: run Python code that lies in the directory. Off unless asked for.
    """

    def __init__(self, directory: Path, *, name: str, trust_remote_code: bool = False, processor: Any = None) -> None:
        self.directory = directory
        self._name = name
        self._trust = trust_remote_code
        self.passed_processor = processor
        self._check()

    def _check(self) -> None:
        described = files.check_directory(self.directory, self._name)
        if "auto_map" in described and not self._trust and not pretrained.is_builtin(described):
            raise SourceError(
                f"model {self._name!r}",
                "it needs Python code of its own (auto_map in config.json), which is not run unasked",
                "read that code, then pass trust_remote_code=True",
            )
        files.check_weights(self.directory, self._name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def in_memory(self) -> bool:
        return False

    @cached_property
    def config(self) -> Any:
        return pretrained.read_config(self.directory, self._name, trust_remote_code=self._trust)

    @property
    def class_name(self) -> str:
        """The name of its transformers class; empty for any other model."""
        has_code = self._trust and getattr(self.config, "auto_map", None)
        return "" if has_code else str(resolve_class(self.config).__name__)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint.of_directory(self.directory, with_code=self._trust)

    @cached_property
    def held_in(self) -> str:
        """The precision of its weights as stored in the directory."""
        return checkpoint.precision_of_directory(self.directory)

    @cached_property
    def _module(self) -> Any:
        model = pretrained.read_model(self.directory, self._name, self.config, trust_remote_code=self._trust)
        forms.check_module(model)
        return model

    def module(self) -> Any:
        """Return a copy of the eager model that has seen no call, in 32-bit floats and evaluation mode; all copies
        share weights."""
        return _fresh(self._module.eval())

    @cached_property
    def processor(self) -> Any:
        found = self.passed_processor
        return found if found is not None else pretrained.read_processor(self.directory, trust_remote_code=self._trust)

    def size(self) -> int:
        """Return the size of its weights in bytes."""
        return _weight_bytes(self._module)

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return self.directory

    def companions(self) -> dict[str, Path]:
        """Return configuration, tokenizer and processor files."""
        return companions(self.directory)

    def save_companions(self, directory: Path) -> None:
        """Write the processor if one was passed beside the directory."""
        if hasattr(self.passed_processor, "save_pretrained"):
            self.passed_processor.save_pretrained(directory)


if TYPE_CHECKING:
    Source = MemorySource | DirectorySource | OnnxSource
else:
    Source = MemorySource | DirectorySource


def open_given(
    model: Any,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    processor: Any = None,
    task: str | None = None,
) -> Source | ConvertedSource:
    """Open any of the kinds of model, out of the wrappers of `torch.compile` and `DataParallel`.

    A model that another package converted for a backend's runtime is found here too; it is opened as it is.

    Args:
        model: a `PreTrainedModel`, a `torch.nn.Module`, a directory, a hub id ("owner/name"), or an ONNX file.
        revision: branch, tag or commit, for a hub id.
        trust_remote_code: run code that comes with the model.
        processor: tokenizer, image processor, feature extractor or processor, if it does not lie beside the model.
        task: the task that was asked for; "feature-extraction" gives the transformer of a sentence encoder alone.

    Raises:
        SourceError: the model does not exist, or the object is no model.
    """
    from optimum_core.models.sources import adapters
    from optimum_core.models.sources.sentences import in_memory

    if isinstance(model, str | os.PathLike) and isinstance(os.fspath(model), str):
        return _from_path(os.fspath(model), revision, trust_remote_code, processor, task)
    model = forms.unwrapped(model)
    if in_memory.sentence_class(model) is not None:
        return in_memory.open_object(model, processor)
    if adapters.is_adapted(model):
        return adapters.AdaptedSource(model, processor=processor, trust_remote_code=trust_remote_code)
    if not forms.is_module(model):
        raise forms.refuse_object(model)
    forms.check_module(model)
    return MemorySource(model, processor=processor, trust_remote_code=trust_remote_code)


def open_source(model: Any, **how: Any) -> Source:
    """Open a model that can be compared, by `open_given`.

    Raises:
        SourceError: as `open_given`; or it is one that another package converted, which is opened as it is.
    """
    from optimum_core.models.sources.converted import ConvertedSource

    source = open_given(model, **how)
    if isinstance(source, ConvertedSource):
        why = f"it is {source.form}, converted already, and there is nothing to compare it with"
        raise SourceError(f"model {source.name!r}", why, "optimum_core.load opens it as it is")
    return source


def _from_path(
    model: str, revision: str | None, trust_remote_code: bool, processor: Any, task: str | None
) -> Source | ConvertedSource:
    from optimum_core.models.sources.converted import converted_at, find_converted

    if (converted := converted_at(model)) is not None:
        return converted
    path = files.local_path(model)
    if path.suffix == ".onnx" and path.is_file() and not is_pointer(path):
        return _from_onnx(path, processor=processor)
    if path.suffix == ".gguf" and path.is_file() and not is_pointer(path):
        from optimum_core.models.sources.gguf_file import GgufSource

        return GgufSource(path, name=path.name, processor=processor)
    if is_artifact(path):
        raise SourceError(f"model {model!r}", "it is accelerated already", f"optimum_core.load({model!r}) opens it")
    if path.is_dir():
        name = path.resolve().name
        return open_directory(path, name=name, trust_remote_code=trust_remote_code, processor=processor, task=task)
    if path.exists():
        raise files.refuse_file(path, f"model {model!r}")
    if not files.may_be_repository(model, with_owner=False):
        raise SourceError(f"model {model!r}", "no such directory", "check the path")
    directory = pretrained.download(model, revision=revision, with_code=trust_remote_code)
    if (converted := find_converted(directory, model)) is not None:
        return converted
    return open_directory(directory, name=model, trust_remote_code=trust_remote_code, processor=processor, task=task)


def _from_onnx(path: Path, *, name: str | None = None, processor: Any) -> OnnxSource:
    from optimum_core.models.sources.onnx_directory import OnnxDirectorySource, described_beside
    from optimum_core.models.sources.onnx_file import OnnxSource

    if (directory := described_beside(path)) is None:
        return OnnxSource(path, processor=processor)
    return OnnxDirectorySource(path, directory, name=name or path.name, processor=processor)


def open_directory(
    directory: Path,
    *,
    name: str,
    trust_remote_code: bool = False,
    processor: Any = None,
    task: str | None = None,
) -> Source:
    """Open a directory: an ONNX or GGUF file alone, an adapter with its base, a sentence encoder with its modules,
    unless another task was asked for, or a plain model."""
    from optimum_core.models.sources import gguf_file, onnx_directory

    if (path := onnx_directory.the_file(directory, name)) is not None:
        return _from_onnx(path, name=name, processor=processor)
    if (path := gguf_file.the_file(directory, name)) is not None:
        return gguf_file.GgufSource(path, name=name, processor=processor)
    cls = _kind_of_directory(directory, task)
    return cls(directory, name=name, trust_remote_code=trust_remote_code, processor=processor)


def _kind_of_directory(directory: Path, task: str | None) -> type[DirectorySource]:
    from optimum_core.models.sources import adapters
    from optimum_core.models.sources.sentences.directory import is_sentence_directory
    from optimum_core.models.sources.sentences.source import SentenceSource

    if adapters.is_adapter(directory):
        return adapters.AdapterSource
    whole = task in (None, SENTENCES) and is_sentence_directory(directory)
    return SentenceSource if whole else DirectorySource


def _weight_bytes(module: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(module).values())


def _fresh(module: Any) -> Any:
    from optimum_core.models.eager.calls import fresh

    return fresh(module)


def _twin(module: Any) -> Any:
    """Return the model in evaluation mode and at least 32-bit floats; weights that are so are shared with the user's.

    Raises:
        SourceError: it cannot be copied and is in training mode, or in lower precision than 32 bits.
    """
    from optimum_core.models.eager.copies import holds_16_bits, throwaway, widened

    who, remedy = f"model {type(module).__name__}", "call its eval() and float() first"
    if holds_16_bits(module):
        try:
            return widened(module).eval()
        except Exception as error:
            raise SourceError(who, f"it is in 16 bits, and cannot be copied: {error}", remedy) from error
    twin = throwaway(module)
    if twin is module and any(part.training for part in module.modules()):
        raise SourceError(who, "it is in training mode, and cannot be copied", remedy)
    return twin.eval() if twin is not module else twin
