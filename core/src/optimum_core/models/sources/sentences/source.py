"""Sources of sentence encoders: a directory of sentence-transformers."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.artifact.embedding import MODULES, EmbeddingSettings
from optimum_core.models import fingerprint, pretrained
from optimum_core.models.sources import forms
from optimum_core.models.sources.companions import companions, modules_of
from optimum_core.models.sources.sentences.directory import read_modules
from optimum_core.models.sources.sentences.stored import without_pickles
from optimum_core.models.sources.source import DirectorySource

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature


class SentenceSource(DirectorySource):
    """A directory of sentence-transformers: the transformer with all modules behind it is the model.

    Args:
        directory: holds `modules.json`.
    """

    def __init__(self, directory: Path, *, name: str, trust_remote_code: bool = False, processor: Any = None) -> None:
        self.root = directory
        self.modules = read_modules(directory, name)
        super().__init__(self.modules.transformer, name=name, trust_remote_code=trust_remote_code, processor=processor)

    @property
    def class_name(self) -> str:
        """The name of the class of the whole."""
        return type(self._module).__name__

    @cached_property
    def settings(self) -> EmbeddingSettings:
        """Prompts, the greatest length, and the like."""
        beside, inside = EmbeddingSettings.read(self.root), EmbeddingSettings.read(self.directory)
        return beside if self.root == self.directory else _merged(beside, inside)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(fingerprint.of_directory(self.directory, with_code=self._trust).encode())
        for kind, place in self.modules.heads:
            for path in sorted(place.glob("*")) if place != self.root else ():
                digest.update(f"{kind}/{path.name}:{fingerprint.of_file(path)}\n".encode())
        digest.update(fingerprint.of_file(self.root / MODULES).encode())
        return digest.hexdigest()

    @cached_property
    def _module(self) -> Any:
        from optimum_core.models.sources.sentences.encoder import encoder_of
        from optimum_core.models.sources.sentences.heads import read_head

        transformer = pretrained.read_transformer(
            self.directory, self._name, self.config, trust_remote_code=self._trust
        )
        forms.check_module(transformer)
        who = f"model {self._name!r}"
        return encoder_of(transformer, [read_head(kind, place, who) for kind, place in self.modules.heads])

    @cached_property
    def processor(self) -> Any:
        found = pretrained.read_processor(self.directory, trust_remote_code=self._trust)
        if self.passed_processor is not None or found is None:
            return self.passed_processor
        if self.settings.max_seq_length:
            found.model_max_length = self.settings.max_seq_length
        return found

    def compare_with_original(self, signature: ModelSignature | None = None) -> None:
        """Compare the embeddings of some texts with sentence-transformers', where it is installed, and note that.

        Raises:
            VerificationError: they differ.
        """
        from optimum_core.models.data.texts import read_texts
        from optimum_core.models.sources.sentences.check import compared, original_of

        who = f"model {self._name!r}"
        reader = read_texts(self.directory, who, greatest_length(self.config))
        original = original_of(self.root, trust_remote_code=self._trust)
        note = compared(self._module.eval(), reader, self.settings, original, who)
        self.notes = (*self.notes, note)

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return self.root

    def companions(self) -> dict[str, Path]:
        """Return configuration and tokenizer files as if the transformer's lay at the top, and those of the modules,
        with their weights: other layouts have the modules behind the graph."""
        inside = {} if self.directory == self.root else companions(self.directory)
        beside = companions(self.root)
        within = f"{self.directory.relative_to(self.root).as_posix()}/"
        kept = {name: path for name, path in beside.items() if not name.startswith(within)}
        return {**kept, **inside, **modules_of(self.root)}

    def save_companions(self, directory: Path) -> None:
        """Write the processor that was passed, if any, and weights of modules that lie in pickles."""
        super().save_companions(directory)
        without_pickles(self.root, directory)


def greatest_length(config: Any) -> int | None:
    """Return the number of positions in a configuration, at which sentence-transformers cuts where none is stated."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _merged(beside: EmbeddingSettings, inside: EmbeddingSettings) -> EmbeddingSettings:
    from dataclasses import replace

    return replace(beside, max_seq_length=inside.max_seq_length, do_lower_case=inside.do_lower_case)
