"""Comparison of a sentence encoder with sentence-transformers, where that is installed: from texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from optimum_core.artifact.embedding import MODULES, POOLING_MASK, SENTENCE, EmbeddingSettings
from optimum_core.errors import OptimumError, SourceError, VerificationError
from optimum_core.models.data.texts import TextReader
from optimum_core.models.inputs.processor import TEXTS
from optimum_core.models.pretrained import quiet
from optimum_core.packages import present, versions
from optimum_core.types.arrays import NDArray

PACKAGE, DISTRIBUTION = "sentence_transformers", "sentence-transformers"
#: Texts as users have them: empty, with capitals and spaces, beyond ASCII, and longer than any model takes.
_TEXTS = (*TEXTS, "", "  Two  Spaces, and a Tab\there. ", "naïve café, 東京, Привет", "many words " * 400)
_TOLERANCE = 1e-3
#: Encodes texts behind a prompt, by the original.
Original = Callable[[Sequence[str], str], Any]


def compared(module: Any, reader: TextReader, settings: EmbeddingSettings, original: Original | None, who: str) -> str:
    """Compare the vectors of some texts, without a prompt and behind each of the model's, and return a note for the
    report.

    Args:
        original: sentence-transformers; None: it is not installed.

    Raises:
        SourceError: the original fails on a text, such as one longer than the model takes.
        VerificationError: they differ.
    """
    if original is None:
        return (
            f"{DISTRIBUTION} is not installed, so the model was compared with its modules as {MODULES} lists them, and "
            "not with that package's own embeddings"
        )
    prompts = dict.fromkeys(("", *settings.prompts.values()))
    for prompt in prompts:
        # Of an empty text, a tokenizer without marks of its own makes nothing, which the original refuses as we do.
        texts = [text for text in _TEXTS if len(next(iter(reader.encode([prompt + text])))["input_ids"])]
        with _refused_by(who, "does not encode with it"):
            want = np.asarray(original(texts, prompt))
        got = np.stack(list(_encoded(module, reader, prompt, texts)))
        if want.shape != got.shape or not np.allclose(got, want, rtol=0, atol=_TOLERANCE * np.abs(want).max()):
            raise _different(want, got, prompt, texts, who)
    version = versions((DISTRIBUTION,)).get(DISTRIBUTION, "")
    return f"embeddings of {len(_TEXTS)} texts with {len(prompts)} prompts equal those of {DISTRIBUTION} {version}"


def _encoded(module: Any, reader: TextReader, prompt: str, texts: Sequence[str]) -> Iterator[NDArray]:
    left_out = reader.prompt_length(prompt) if prompt else 0
    for item in reader.encode([prompt + text for text in texts]):
        inputs = {name: torch.tensor([values]) for name, values in item.items() if name != POOLING_MASK}
        if takes_pooling_mask(module):
            inputs[POOLING_MASK] = (torch.arange(inputs["input_ids"].shape[1]) >= left_out).long()[None]
        with torch.no_grad():
            yield module(**inputs)[SENTENCE][0].numpy()


def takes_pooling_mask(module: Any) -> bool:
    """Whether a sentence encoder leaves the prompt out of its pooling."""
    from optimum_core.models.sources.sentences.encoder import PromptlessEncoder

    return isinstance(module, PromptlessEncoder)


def _different(want: NDArray, got: NDArray, prompt: str, texts: Sequence[str], who: str) -> VerificationError:
    behind = f" behind the prompt {prompt!r}" if prompt else ""
    if want.shape != got.shape:
        why = f"{DISTRIBUTION} gives embeddings of {want.shape[-1]} dimensions{behind}, its modules {got.shape[-1]}"
    else:
        errors = np.abs(got - want).max(axis=1)
        place = int(errors.argmax())
        text = texts[place][:30]
        why = f"its embedding of {text!r}{behind} differs by {errors[place]:.2g} from that of {DISTRIBUTION}"
    return VerificationError(who, why, "report the model: a setting of it was not understood; or accelerate its parts")


def original_of(directory: Any, *, trust_remote_code: bool) -> Original | None:
    """Return sentence-transformers' own encoder of a directory, in 32-bit floats; None where it is not installed.

    Raises:
        SourceError: it does not open the directory.
    """
    if not present(PACKAGE):
        return None
    from importlib import import_module

    with quiet(), _refused_by(f"model {str(directory)!r}", "does not open it"):
        loaded = import_module(PACKAGE).SentenceTransformer(
            str(directory), device="cpu", trust_remote_code=trust_remote_code, local_files_only=True
        )
    return encoder_of_object(loaded.float())


@contextmanager
def _refused_by(who: str, what: str) -> Iterator[None]:
    """Turn an error of the original, of any type, into one that says whose it is."""
    try:
        yield
    except OptimumError:
        raise
    except Exception as error:
        why = f"{DISTRIBUTION} itself {what}: {type(error).__name__}: {error}"
        remedy = f"mend its files ({MODULES}, the folders that it names, max_seq_length) until it does"
        raise SourceError(who, why[:400], remedy) from error


def encoder_of_object(loaded: Any) -> Original:
    """Return the encoder of a `SentenceTransformer`, without its own truncation of dimensions."""

    def encode(texts: Sequence[str], prompt: str) -> Any:
        kept = loaded.truncate_dim
        loaded.truncate_dim = None
        try:
            with quiet():
                return loaded.encode(list(texts), prompt=prompt, batch_size=1, show_progress_bar=False)
        finally:
            loaded.truncate_dim = kept

    return encode
