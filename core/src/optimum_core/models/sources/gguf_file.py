"""A GGUF file as a model: read by transformers, which turns its quantized weights into floats."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import SourceError, UnavailableError
from optimum_core.models import fingerprint, pretrained
from optimum_core.models.sources import forms
from optimum_core.models.sources.source import DirectorySource
from optimum_core.packages import present

SUFFIX = ".gguf"
#: The sizes of a model that every architecture states.
_SIZES = ("embedding_length", "block_count")
_REMEDY = "give the checkpoint that it was made from: a directory written by save_pretrained, or a hub id"


def the_file(directory: Path, name: str) -> Path | None:
    """Return the GGUF file of a directory without other weights; None: it holds none.

    Raises:
        SourceError: there are several.
    """
    from optimum_core.models.sources.files import has_weights, refuse_file

    found = sorted(directory.glob(f"*{SUFFIX}"))
    if not found or has_weights(directory):
        return None
    if len(found) > 1:
        told = ", ".join(path.name for path in found[:4])
        raise SourceError(
            f"model {name!r}", f"it holds {len(found)} GGUF files ({told})", f"pass one: {str(found[0])!r}"
        )
    if is_pointer(found[0]):
        raise refuse_file(found[0], f"model {name!r}")
    return found[0]


class GgufSource(DirectorySource):
    """A GGUF file; configuration and tokenizer are read from it, too.

    Args:
        path: the file.
    """

    def __init__(self, path: Path, *, name: str, processor: Any = None) -> None:
        self.path = path
        super().__init__(path.parent, name=name, processor=processor)

    def _check(self) -> None:
        if not present("gguf"):
            raise UnavailableError(
                f"model {self._name!r}", "it is a GGUF file, and gguf is not installed", "pip install gguf"
            )
        stored = _stored(self.path, f"model {self._name!r}")
        told = ", ".join(sorted(stored, key=lambda kind: -stored[kind]))
        self.notes = (
            f"its weights are stored in GGUF as {told}; transformers read them as 32-bit floats, and the result was "
            "compared with that reading, not with the checkpoint that the file was made from",
        )

    @cached_property
    def config(self) -> Any:
        return pretrained.read_config(self.directory, self._name, trust_remote_code=False, gguf_file=self.path.name)

    @property
    def class_name(self) -> str:
        """The name of its transformers class."""
        return type(self._module).__name__

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint.of_file(self.path)

    @property
    def held_in(self) -> str:
        """The precision that the weights are read in: most files hold integers, which no float type equals."""
        return "fp32"

    @cached_property
    def _module(self) -> Any:
        model = pretrained.read_gguf(self.path, self._name, self.config)
        forms.check_module(model)
        return model

    @cached_property
    def processor(self) -> Any:
        """The tokenizer that was passed, or that of the file."""
        if self.passed_processor is not None:
            return self.passed_processor
        return pretrained.read_processor(self.directory, gguf_file=self.path.name)

    def companions(self) -> dict[str, Path]:
        """Return no files: all lies in the one file."""
        return {}

    def save_companions(self, directory: Path) -> None:
        """Write configuration, generation settings and tokenizer as they were read."""
        for part in (self._module.config, getattr(self._module, "generation_config", None), self.processor):
            if part is not None and hasattr(part, "save_pretrained"):
                part.save_pretrained(directory)


def _stored(path: Path, who: str) -> Counter[str]:
    """Return the number of values by type of storage ("Q4_K").

    Raises:
        SourceError: it cannot be read, or holds no weights of a model whose size it states: transformers would make a
            usual one of billions of random numbers.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        tensors, stated = reader.tensors, {name.rpartition(".")[2] for name in reader.fields}
    except Exception as error:  # a damaged file raises errors of many types
        raise SourceError(who, f"{path.name} is no readable GGUF file: {error!r}", _REMEDY) from error
    if lacking := [*([] if tensors else ["weights"]), *(name for name in _SIZES if name not in stated)]:
        why = f"{path.name} holds no {' and no '.join(lacking)}: it is a vocabulary alone, or cut short"
        raise SourceError(who, why, _REMEDY)
    counted: Counter[str] = Counter()
    for tensor in tensors:
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    return counted
