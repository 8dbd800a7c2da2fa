"""The model that `accelerate` and `load` return, which behaves like the one it was made from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from optimum_core import artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.names import CHECK_FILE, as_text
from optimum_core.artifact.structure import from_names
from optimum_core.errors import InputError
from optimum_core.generation.model_session import GenerativeSession, MergedSession, run_function
from optimum_core.plugins import Direct, PluginManager
from optimum_core.runtime.absent_device import AbsentDeviceSession
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.runtime.call_outputs import Answer, Answerer
from optimum_core.runtime.card import save_with_card
from optimum_core.runtime.eager_saving import with_settings, with_weights
from optimum_core.runtime.embedding_face import EmbeddingFace
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.runtime.foreign_layouts import save_as
from optimum_core.runtime.generation_face import GenerativeFace
from optimum_core.runtime.hub import upload_artifact
from optimum_core.runtime.items import ItemEncoder, check_many, is_chat
from optimum_core.runtime.mapping import Mapper, progress_bar
from optimum_core.runtime.neutral_arguments import absent_inputs
from optimum_core.runtime.not_torch import explained
from optimum_core.runtime.output_lengths import OutputLengths
from optimum_core.runtime.pickling import Opening, reduced, reopened
from optimum_core.runtime.repeated_call import Repeated, SessionFunctions, never
from optimum_core.runtime.streaming import streamed
from optimum_core.runtime.summary import hints, proof
from optimum_core.runtime.transformers_face import SETTINGS, UNREAD, TransformersFace
from optimum_core.types import Cut, Fidelity, Report, Session
from optimum_core.types.rendering import model_to_html
from optimum_core.verify import compare, tolerance_of

#: Public members of transformers' `GenerationMixin` and its models that a model which generates has beside `generate`.
_OF_GENERATION = frozenset(
    {"get_encoder", "compute_transition_scores", "prepare_inputs_for_generation", "heal_tokens", "detect_language"}
)


class AcceleratedModel(GenerativeFace, EmbeddingFace, TransformersFace):
    """A model in its fastest correct form.

    Call it like the original: the same names, torch in and torch out, numpy in and numpy out, the original's output
    class. Thread-safe.

    Attributes:
        manifest: its description: origin, verification, measurements.
        directory: the directory of its files.
    """

    def __init__(
        self,
        manifest: Manifest,
        directory: Path,
        session: Session,
        *,
        plugins: PluginManager,
        source: Any = None,
        opening: Opening | None = None,
    ) -> None:
        self.manifest = manifest
        self.directory = directory
        self._beside = FilesBeside(f"model {manifest.model.name!r}", directory, manifest)
        self._session = session
        self._is_merged = isinstance(session, MergedSession)
        self._source = source
        self._run = session.run if isinstance(session, AbsentDeviceSession) else run_function(plugins, session)
        self._plugins = plugins
        self._opening = opening or Opening()
        self._who = f"model {manifest.model.name!r}"
        self._returns_dict = not manifest.model.returns_tuple
        self._generates = isinstance(session, GenerativeSession)
        self._checker = InputChecker(
            self._who,
            manifest.inputs,
            outputs=[spec.name for spec in manifest.outputs],
            axes=manifest.axes,
            positional=manifest.model.positional,
            ignored=manifest.ignored_inputs,
            defaults=manifest.model.defaults,
            on_host=session.device.startswith("cpu"),
            is_eager=manifest.format == artifacts.LIVE,
            absent=absent_inputs(manifest),
        )
        # Eager is right as it is, and a given file may name its axes as it likes.
        as_it_is = manifest.format == artifacts.LIVE or not manifest.model.has_original
        self._lengths = None if as_it_is else OutputLengths(self._who, manifest.inputs, manifest.outputs)
        names = tuple(spec.name for spec in manifest.outputs)
        structure = manifest.model.structure or from_names(manifest.model.output_class, names)
        self._answerer = Answerer(structure, names, in_memory=source is not None)
        self._functions = SessionFunctions(self._run, self._direct(names))
        self._repeated: Repeated = never
        if getattr(source, "in_memory", False):
            _ = self.config  # read now, so that a change of the original's configuration is noticed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            args: inputs in the order of the original's `forward`.
            kwargs: inputs by name; `return_dict=False` gives a tuple, and True gives none where the configuration asks
                for one.

        Raises:
            InputError: an input is missing, unknown or does not fit.
            SessionError: the runtime failed.

        Warns:
            UnprovedLengthWarning: an input is longer or shorter than those compared with the original.
        """
        if args:
            kwargs = self._checker.named(args, kwargs)
        values = self._config_values
        # A call like the last one, first: each further line costs microseconds, since an inference empties the caches.
        if values is UNREAD or tuple(map(values.get, SETTINGS)) == self._settings_before:
            answer = self._repeated(kwargs)
            if answer is not None:
                return answer
        return self._call(kwargs)

    def _call(self, kwargs: dict[str, Any]) -> Any:
        as_dict, *asked = map(self._config_values.get, SETTINGS)
        if asked != list(self._settings_before[1:]):
            self._check_asked()
            self._settings_before = self._settings_before[0], *asked  # another word for the same
        if self._is_merged:
            return self._call_merged(kwargs)
        if self._generates:
            return self._call_decoder(kwargs) if self._parts is None else self._call_parts(kwargs)
        if as_dict == self._settings_before[0]:  # unless changed since, as the manifest says
            as_dict = self._returns_dict
        if kwargs.get("return_dict") is not None:
            as_dict = kwargs["return_dict"]
        arrays, torch_in, seen = self._checker.bind_call(kwargs)
        outputs = self._run_checked(arrays)
        answer = self._answerer.answer(outputs, as_torch=torch_in, as_tuple=as_dict is False)
        if self._returns_dict:
            self._repeated = self._checker.repeated(seen, self._functions, self._answerer, as_torch=torch_in)
        return answer

    def _direct(self, names: tuple[str, ...]) -> Direct | None:
        session = self._session
        plain = not isinstance(session, AbsentDeviceSession | GenerativeSession)
        fits = plain and tuple(spec.name for spec in session.outputs) == names
        return self._plugins.direct(session) if fits else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, as calling it does."""
        return self(*args, **kwargs)

    def map(
        self,
        items: Iterable[Any],
        *,
        batch_size: int = 32,
        tokenizer: Any = None,
        processor: Any = None,
        progress: bool = True,
        outputs: Sequence[str] | None = None,
    ) -> Answer:
        """Run many texts or inputs of mixed length, in batches of similar length, and return results in order.

        Args:
            items: texts; pairs of texts; pictures (of PIL, or 8-bit values [height, width] or [height, width,
                channels]); sounds (floats or 16-bit integers [samples] at the model's rate, or mappings with `array`
                and `sampling_rate`); rows of data sets with one of these as "image" or "audio"; or inputs of one item
                each by name, without the batch axis. An iterator is read piece by piece, so that memory holds the
                results alone.
            batch_size: maximum number of items in one call.
            tokenizer: a transformers tokenizer, instead of the one saved beside the model.
            processor: a transformers image processor or feature extractor, instead of the one saved beside the model.
            progress: show a bar on stderr where that is a terminal.
            outputs: names of the outputs to keep; None: all.

        Returns:
            Numpy arrays by output name, items along the first axis; where an output has a value for every token, a
            list of arrays, one per item.

        Raises:
            InputError: an item is nothing that the model takes, or an output has another name.
            UnavailableError: texts, pictures or sounds were passed, and there is no tokenizer or processor.
        """
        if not hasattr(batch_size, "__index__") or batch_size < 1:
            raise InputError(self._who, f"batch_size is {batch_size!r}", "pass 1 or more")
        encoder = ItemEncoder(self._who, tokenizer, processor, self.manifest, self.directory)
        given = encoder.checked(items)
        with progress_bar(len(given) if isinstance(given, list) else None, shown=progress) as advance:
            mapper = self._mapper(outputs)
            if encoder.takes_as_they_are and isinstance(given, list):
                return mapper.map(given, batch_size, advance)  # every item is checked before the first is run
            return streamed(mapper, given, encoder, batch_size, advance, encoder.window(batch_size))

    def tokenize(
        self, texts: Iterable[Any], *, prompt: str = "", truncation: Cut = True, tokenizer: Any = None
    ) -> list[Mapping[str, Any]]:
        """Return the inputs of every text as `map` makes and takes them: ids by name, without the batch axis.

        Args:
            texts: texts, pairs of texts, or chats (messages with "role" and "content") of a model that generates.
            prompt: a text to put before each; `prompts` has those of a sentence encoder.
            truncation: cut texts at the length that the model takes; "left" or "right": on this side.
            tokenizer: a transformers tokenizer, instead of the one saved beside the model.

        Raises:
            InputError: a text is empty, or is no text; or one text came, and not many.
            UnavailableError: there is no tokenizer.
        """
        check_many(self._who, "tokenize", texts)
        given = list(texts)
        if is_chat(given):
            why = "tokenize takes many items, and one chat came"
            raise InputError(self._who, why, "pass a list: fast.tokenize([…])")
        if not given:
            return []
        if all(is_chat(item) for item in given):
            return [{"input_ids": self._codec.ids_of(chat)} for chat in given]
        return self._text_model(tokenizer).prepared(given, prompt, truncate=truncation)

    def prepare(self, items: Iterable[Any], *, tokenizer: Any = None, processor: Any = None) -> list[Mapping[str, Any]]:
        """Return the inputs of texts, pictures or sounds as `map` makes and takes them: an item each, by name.

        Raises:
            InputError, UnavailableError: as `map`.
        """
        encoder = ItemEncoder(self._who, tokenizer, processor, self.manifest, self.directory)
        given = list(encoder.checked(items))
        return list(encoder(given)) if given else []

    def compare(self, items: Sequence[Any], outputs: Mapping[str, Any], *, precision: str = "fp32") -> Fidelity:
        """Compare outputs that another form of this model gave for items with this model's own, as verification does.

        On the eager model (`accelerate(original, target="torch")`), it tells how true the other form is.

        Args:
            items: as `map` takes them.
            outputs: arrays by name, items along the first axis; none with a value for every token.
            precision: of the other form's arithmetic, or of its quantized weights: its tolerance applies.

        Raises:
            InputError: an item is nothing that the model takes, or an output has another name.
        """
        own, tolerance = self.map(items, progress=False, outputs=list(outputs)), tolerance_of(precision)
        results = tuple(
            compare(f"{len(items)} items", {}, name, np.asarray(own[name]), np.asarray(found), tolerance)
            for name, found in outputs.items()
        )
        return Fidelity(precision=precision, tolerance=tolerance.relative, results=results)

    def _plain_mapper(self, outputs: Sequence[str] | None) -> Mapper:
        """Return a mapper that keeps these outputs of the session; None: all."""
        known = {spec.name: spec for spec in self.manifest.outputs}
        if unknown := next((name for name in outputs or () if name not in known), None):
            raise InputError(self._who, f"it has no output {unknown!r}", f"its outputs are {', '.join(known)}")
        return Mapper(
            self._who,
            self.named_outputs,
            self.manifest.inputs,
            self.manifest.outputs if outputs is None else [known[name] for name in outputs],
            check=self._checker.check,
            pad_id=self.config_value("pad_token_id") or 0,
            streams=self.manifest.streams,
        )

    def named_outputs(self, arrays: dict[str, Any]) -> Mapping[str, Any]:
        """Return the outputs by the names of `manifest.outputs`, whatever containers a call puts them into; errors are
        those of a call."""
        self._check_asked()
        return self._run_checked(self._checker.bind((), arrays)[0])

    def _run_checked(self, arrays: dict[str, Any]) -> Mapping[str, Any]:
        outputs = self._run(arrays)
        if self._lengths is not None:
            self._lengths.check(arrays, outputs)
        return outputs

    def __repr__(self) -> str:
        model, device = self.manifest.model, self._session.device
        asked = self._opening.precision if model.has_original else None  # a given file states its own
        precision = self.manifest.quantized or asked or self.manifest.precision
        name = model.class_name or model.name
        return f"<accelerated {name}: {self.backend} on {device}, {precision}, {self.proof}{hints(self.report)}>"

    def _repr_html_(self) -> str:
        return model_to_html(repr(self), self.report)

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":  # part of torch's message when it refuses this as a submodule
            return f"{type(self).__name__} (accelerated, no torch.nn.Module: keep it under a name that holds no module)"
        if name.startswith("__") or "_who" not in vars(self):
            raise AttributeError(name)
        # As the assistant of an eager model, it is asked for private members of `GenerationMixin`.
        asked = name.startswith("_") or name in _OF_GENERATION
        if asked and vars(self).get("_generates") and hasattr(self._host, name):
            return getattr(self._host, name)
        raise explained(self._who, name, dir(type(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self.manifest, self.directory, self._source, self._opening)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same model with its own session; files and eager weights, which never change, are shared."""
        copied: Self = reopened(self.manifest, self.directory, self._plugins, self._source, self._opening)
        if copied._config_values is not UNREAD:  # a configuration in memory is shared
            copied._settings_before = self._settings_before
        return copied

    # Results of the search.

    @property
    def report(self) -> Report | None:
        """The candidates tried, their times and fidelity, and the reason for the choice."""
        return self.manifest.report

    @property
    def backend(self) -> str:
        """The backend that runs it."""
        return self._session.backend

    @property
    def task(self) -> str:
        """The task of the model."""
        return self.manifest.task

    @property
    def proof(self) -> str:
        """The extent of the comparison with the original, in words: "verified", "NOT verified" and others."""
        return proof(self.manifest, self.backend)

    @property
    def can_be_retuned(self) -> bool:
        """Whether `load(…, retune=True)` tunes it: it carries a call, and the eager model's answer to it."""
        return CHECK_FILE in self.manifest.files

    # Saving and closing.

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, overwrite: bool = False, layout: str | None = None, **_: Any
    ) -> None:
        """Write a deployable artifact for `load`, which needs torch and transformers only if its backend does.

        Beside it is a README.md for people, with the hub's header; one of another hand is left alone.

        Args:
            save_directory: a new or empty directory, or one that holds an older artifact.
            overwrite: allow a directory that holds other files.
            layout: "optimum" writes what the classes of optimum-onnx and optimum-intel read, without a manifest.

        Raises:
            ArtifactError: the directory holds other files, or cannot be written.
            ExportError: the model stayed eager, and its class cannot be imported again.
            OptionError, UnavailableError: there is no such layout, or it has no form for this model.
        """
        place = Path(as_text(save_directory)).expanduser()
        files = {name: self.directory / name for name in self.manifest.files}
        report = replace(self.report, from_cache=False) if self.report else None
        asked = vars(self).get("generation_config")
        with with_settings(replace(self.manifest, report=report), asked, files) as (described, present):
            if layout is not None:
                save_as(layout, described, present, self.directory, place, self._plugins, overwrite=overwrite)
                return
            with with_weights(described, self._source, self._plugins, present) as (manifest, sources):
                save_with_card(manifest, sources, place, overwrite=overwrite)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Save the artifact and upload it as a model repository.

        Args:
            repo_id: "owner/name"; created where it does not exist.

        Returns:
            The URL of the commit.

        Raises:
            SourceError: the hub refuses.
        """
        message = f"Accelerated with {self.backend}"
        return upload_artifact(self.save_pretrained, repo_id, private=private, revision=revision, message=message)

    def close(self) -> None:
        """Free the resources of the runtime."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
