"""The members of an accelerated model that encode, compare and rank texts, named as in sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.artifact.embedding import SENTENCE, TOKENS, EmbeddingSettings
from optimum_core.errors import InputError, SourceError, UnavailableError
from optimum_core.generation.text import plain_tokenizer
from optimum_core.models.data.texts import cut_length
from optimum_core.models.sources.sentences.behind import ModulesBehind
from optimum_core.packages import present
from optimum_core.runtime import vectors
from optimum_core.runtime.call_outputs import tensor_of
from optimum_core.runtime.embedding import EncodeRequest, TextModel, chosen_prompt, encode
from optimum_core.runtime.files_beside import FilesBeside
from optimum_core.runtime.items import greatest_length, text_reader
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.pooled import HIDDEN_STATE, PooledMapper, modules_behind, width_of
from optimum_core.runtime.ranking import LOGITS, ScoreRequest, documents_of, ranked, scores
from optimum_core.types import Session
from optimum_core.types.support import device_type

#: Names of the prompt for documents, the first that a model has counts.
_DOCUMENT = ("document", "passage", "corpus")
_NO_ENCODER = (
    "pass a directory of sentence-transformers (with modules.json), or fast.map(texts) and pool what comes out"
)


class EmbeddingFace:
    """The members for embeddings and scores; `AcceleratedModel` sets the attributes."""

    manifest: Manifest
    directory: Path
    _beside: FilesBeside
    _who: str
    _session: Session

    def _plain_mapper(self, outputs: Sequence[str] | None) -> Mapper:
        raise NotImplementedError

    def _mapper(self, outputs: Sequence[str] | None = None) -> Mapper | PooledMapper:
        """Return a mapper that keeps these outputs; None: all."""
        if outputs is not None and (behind := self._pools(outputs)) is not None:
            return PooledMapper(self._plain_mapper([HIDDEN_STATE]), behind, outputs, self._width)
        return self._plain_mapper(outputs)

    def encode(
        self,
        sentences: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = SENTENCE,
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        inputs: str | Iterable[str] | None = None,
        normalize: bool = False,
        tokenizer: Any = None,
    ) -> Any:
        """Return the embedding of a text, or of many texts in order; the arguments are those of sentence-transformers.

        Args:
            sentences: a text; or a list, array, column or iterator of texts, or of pairs of them. `inputs` is the same.
            prompt_name: the name of a prompt of the model, put before every text.
            prompt: the prompt itself, instead.
            batch_size: maximum number of texts in one call.
            show_progress_bar: show a bar on stderr where that is a terminal.
            output_value: "sentence_embedding"; "token_embeddings", an array for each text; or None, both by name.
            precision: "float32", "int8", "uint8", "binary" or "ubinary" of the vectors.
            convert_to_numpy: False returns a list of tensors.
            convert_to_tensor: return one tensor.
            device: None, or the device that it runs on.
            normalize_embeddings: return vectors of length 1. `normalize` is the same.
            truncate_dim: keep this number of dimensions only; by default, as the model states.
            pool, chunk_size: of no use here: all cores are used without further processes.
            tokenizer: a transformers tokenizer, instead of the one saved beside the model.

        Returns:
            An array [texts, dimensions]; for one text [dimensions].

        Raises:
            InputError: the model gives no sentence embedding, or an argument does not fit.
        """
        self._require_vectors()
        self._check_place(device, pool)
        as_tensor = convert_to_tensor or not convert_to_numpy
        if as_tensor and not present("torch"):
            raise UnavailableError(self._who, "torch is not installed, and tensors were asked for", "take arrays")
        settings = self._settings
        request = EncodeRequest(
            prompt=chosen_prompt(settings, prompt, prompt_name, self._who),
            batch_size=batch_size,
            progress=bool(show_progress_bar),
            output_value=output_value,
            precision=precision or "float32",
            normalize=normalize_embeddings or normalize,
            truncate_dim=truncate_dim if truncate_dim is not None else settings.truncate_dim,
            as_tensor=as_tensor,
            stacked=convert_to_tensor or convert_to_numpy,
        )
        return encode(self._text_model(tokenizer), inputs if sentences is None else sentences, request)

    def encode_query(self, sentences: Any = None, **arguments: Any) -> Any:
        """Return what `encode` does, by default behind the prompt named "query", where the model has it."""
        return self._encode_named(sentences, ("query",), arguments)

    def encode_document(self, sentences: Any = None, **arguments: Any) -> Any:
        """Return what `encode` does, by default behind the prompt named "document", "passage" or "corpus"."""
        return self._encode_named(sentences, _DOCUMENT, arguments)

    def _encode_named(self, texts: Any, names: Sequence[str], arguments: dict[str, Any]) -> Any:
        if arguments.get("prompt") is None and arguments.get("prompt_name") is None:
            found = (name for name in names if name in self._settings.prompts)
            arguments = {**arguments, "prompt_name": next(found, None)}
        return self.encode(texts, **arguments)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of all embeddings of one collection and all of another, [n, m], by the function that
        the model states (cosine by default); tensors for tensors, arrays for arrays."""
        found = vectors.similarity(self.similarity_fn_name, embeddings1, embeddings2, self._who)
        return _like(found, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of the embeddings at equal places of two collections, [n]."""
        found = vectors.pairwise(self.similarity_fn_name, embeddings1, embeddings2, self._who)
        return _like(found, embeddings1, embeddings2)

    def predict(
        self,
        sentences: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        *,
        inputs: Any = None,
        tokenizer: Any = None,
    ) -> Any:
        """Return the score of a pair of texts, or of many pairs; the arguments are those of a `CrossEncoder`.

        Args:
            sentences: a pair of texts, or a list or iterator of pairs. `inputs` is the same.
            activation_fn: the function applied to the logits; by default as the model states, or the sigmoid where it
                has one label.
            apply_softmax: apply the softmax to the scores of several labels.

        Returns:
            An array [pairs], or [pairs, labels] where there are several.

        Raises:
            InputError: the model gives no logits of whole texts, or an argument does not fit.
        """
        self._require(LOGITS, "it gives no logits of whole texts", "pass a model for text classification")
        request = ScoreRequest(
            prompt=chosen_prompt(self._settings, prompt, prompt_name, self._who),
            batch_size=batch_size,
            progress=bool(show_progress_bar),
            activation=activation_fn or self._settings.activation_fn,
            softmax=apply_softmax,
        )
        found = scores(self._text_model(tokenizer), inputs if sentences is None else sentences, request)
        if convert_to_tensor or not convert_to_numpy:
            found = tensor_of(found)
        return found if convert_to_tensor or convert_to_numpy else list(found)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **arguments: Any,
    ) -> list[dict[str, Any]]:
        """Return documents by their score with a query, the highest first, as `{"corpus_id", "score", "text"}`.

        Args:
            top_k: return the best ones alone.
            return_documents: return the texts, too.
            arguments: of `predict`.
        """
        documents = documents_of(documents, top_k, self._who)
        found = self.predict([(query, document) for document in documents], **arguments)
        return ranked(found, documents if return_documents else None, top_k, self._who)

    @property
    def prompts(self) -> Mapping[str, str]:
        """The prompts of a sentence encoder, by name."""
        return self._settings.prompts

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function that a sentence encoder states."""
        return self._settings.similarity_fn_name

    @property
    def max_seq_length(self) -> int | None:
        """The number of tokens that texts are cut at; None: they are not."""
        return cut_length(self._beside.checked(), greatest_length(self.manifest))

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt of a call that names none."""
        return self._settings.default_prompt_name

    @property
    def truncate_dim(self) -> int | None:
        """The number of dimensions that are kept where a call names none; None: all."""
        return self._settings.truncate_dim

    def get_embedding_dimension(self) -> int | None:
        """Return the number of dimensions of an embedding; None for a model that gives none."""
        size = self._width
        cut = self._settings.truncate_dim
        return size if size is None or cut is None else min(size, cut)

    @property
    def embeds(self) -> bool:
        """Whether it gives a vector for a text: its graph does, or the modules that lie behind it."""
        return self._gives(SENTENCE) or isinstance(self._behind, ModulesBehind)

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return what `get_embedding_dimension` does, under the older name."""
        return self.get_embedding_dimension()

    @cached_property
    def plain_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` that lies beside the model; it neither cuts nor pads.

        Raises:
            UnavailableError: there is none, or the package `tokenizers` is not installed.
        """
        return plain_tokenizer(self._beside.checked(), self._who)

    @cached_property
    def _settings(self) -> EmbeddingSettings:
        return EmbeddingSettings.read(self._beside.checked())

    @cached_property
    def _own_texts(self) -> TextModel:
        return self._text_model_by(None)

    def _text_model(self, tokenizer: Any) -> TextModel:
        return self._own_texts if tokenizer is None else self._text_model_by(tokenizer)

    def _text_model_by(self, tokenizer: Any) -> TextModel:
        reader = text_reader(self._who, tokenizer, self.manifest, self.directory)
        return TextModel(who=self._who, manifest=self.manifest, mapper=self._mapper, reader=reader)

    @cached_property
    def _width(self) -> int | None:
        if isinstance(self._behind, ModulesBehind):
            return width_of(self._behind, self.manifest)
        sizes = [spec.shape[-1] for spec in self.manifest.outputs if spec.name == SENTENCE]
        return sizes[0] if sizes and isinstance(sizes[0], int) else None

    @cached_property
    def _behind(self) -> ModulesBehind | SourceError | UnavailableError | None:
        """The modules behind its graph, or why they are not applied; None: there are none."""
        try:
            return modules_behind(self.manifest, self._beside.checked())
        except (SourceError, UnavailableError) as error:
            return error

    def _pools(self, outputs: Sequence[str] | None) -> ModulesBehind | None:
        """Return the modules behind its graph that give these outputs; None: the graph does."""
        gives = bool(outputs) and set(outputs or ()) <= {SENTENCE, TOKENS}
        return self._behind if gives and isinstance(self._behind, ModulesBehind) else None

    def _require_vectors(self) -> None:
        if isinstance(self._behind, SourceError | UnavailableError):
            why = f"it gives no sentence embedding: {self._behind.why}"
            raise InputError(self._who, why, self._behind.remedy)
        if not self.embeds:
            raise InputError(self._who, "it gives no sentence embedding", _NO_ENCODER)

    def _require(self, output: str, why: str, remedy: str) -> None:
        if not self._gives(output):
            raise InputError(self._who, why, remedy)

    def _gives(self, output: str) -> bool:
        """Whether it gives this output for a text as a whole."""
        found = [spec for spec in self.manifest.outputs if spec.name == output and len(spec.shape) == 2]
        return bool(found) and any(spec.name == "input_ids" for spec in self.manifest.inputs)

    def _check_place(self, device: Any, pool: Any) -> None:
        if pool is not None:
            why = "a pool of processes came, and it runs in this one, on all of its cores"
            raise InputError(self._who, why, "leave pool out")
        here = device_type(self._session.device)
        for place in device if isinstance(device, list | tuple) else (device,):
            if place is not None and device_type(str(place)) != here:
                raise InputError(self._who, f"device is {place!r}, and it runs on {here}", "leave device out")


def _like(found: Any, *given: Any) -> Any:
    """Return the array as a tensor where tensors were given."""
    flat = (item for part in given for item in (part if isinstance(part, list | tuple) else (part,)))
    return tensor_of(found) if any(hasattr(item, "detach") for item in flat) else found
