"""`python -m tests.benchmarks.children.generation_family TARGET…`: families from standard input, beside eager.

In a process of its own, since an exporter or a runtime may crash on a family. Each outcome is a line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.benchmarks.families import Kind, families

from optimum_core import accelerate
from optimum_core.errors import OptimumError
from optimum_core.measure import Effort, measuring
from optimum_core.models.decoders.description import NotADecoderError
from optimum_core.models.generators import describe_decoder
from optimum_core.models.inputs.samples import Case
from optimum_core.models.pretrained import quiet
from optimum_core.models.signatures.signature import describe

_NEW = 64
#: A seed, and what matrices other than embeddings are multiplied by: where embeddings outweigh the layers, a text
#: repeats its last token.
_DRAWS = ((20, 1.0), (21, 1.0), (22, 3.0), (23, 3.0))
_DISTINCT = 4
_PROMPTS = (6, 15, 1)
#: Seconds: once a candidate is correct, others are not tried.
_BUDGET = 3.0
_WAYS: Mapping[str, Mapping[str, Any]] = {"greedy": {"num_beams": 1}, "4 beams": {"num_beams": 4}}
#: A different token is no fault where eager itself holds both for equally likely, to the last digits of fp32.
_TIE = 1e-4
#: Standard output; what exporters and runtimes print goes elsewhere.
_OUT = os.fdopen(os.dup(1), "w")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A family's model, the inputs, and what eager answers in each way."""

    name: str
    kind: Kind
    module: Any
    inputs: Mapping[str, torch.Tensor]
    texts: dict[str, torch.Tensor] = field(default_factory=dict)


def main(targets: list[str]) -> None:
    """Answer each family named on standard input with one outcome a target, or one where eager does not generate."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        name = line.strip()
        with quiet():
            for facts in _outcomes(name, targets):
                _tell({"family": name, **facts})
        _tell({"family": name, "outcome": "done"})


def _tell(facts: Mapping[str, str]) -> None:
    _OUT.write(json.dumps(facts) + "\n")
    _OUT.flush()


def _outcomes(name: str, targets: list[str]) -> Iterator[dict[str, str]]:
    outcome = "no tiny model"
    try:
        subject = _subject(name, *_DRAWS[0])
        outcome = "eager fails"
        subject = _with_texts(subject)
        outcome = "error"
        why = _why_forward_only(subject)
    except Exception as error:  # noqa: BLE001 - of any class, it is the outcome
        yield {"target": "", "outcome": outcome, "reason": f"{type(error).__name__}: {error}"}
        return
    for target in targets:
        found = {"outcome": "forward only", "reason": why} if why else _outcome(subject, target)
        yield {"target": target, **found}


def _with_texts(subject: Subject) -> Subject:
    """Return the subject with eager's texts; where these repeat a few tokens, one of other weights.

    Raises:
        ValueError: all texts do.
    """
    for draw in _DRAWS:
        candidate = subject if draw == _DRAWS[0] else _subject(subject.name, *draw)
        if (distinct := _generated_by_eager(candidate)) >= _DISTINCT:
            return candidate
    raise ValueError(f"its text has {distinct} different tokens and shows nothing")


def _subject(name: str, seed: int, factor: float) -> Subject:
    kind, make = families()[name]
    module = make(seed=seed)
    if factor != 1:
        _strengthen(module, factor)
    inputs = _prompts(module) if kind == "decoder" else _sources(module, name)
    return Subject(name=name, kind=kind, module=module, inputs=inputs)


def _strengthen(module: Any, factor: float) -> None:
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2 and parameter.is_floating_point() and id(parameter) not in embeddings:
                parameter.mul_(factor)


def _prompts(module: Any) -> dict[str, torch.Tensor]:
    """Return three rows of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(5)
    width = max(_PROMPTS)
    vocabulary = min(99, int(module.get_input_embeddings().weight.shape[0]))
    ids = torch.randint(3, vocabulary - 4, (len(_PROMPTS), width), generator=generator)
    mask = torch.tensor([[int(place >= width - length) for place in range(width)] for length in _PROMPTS])
    return {"input_ids": ids * mask, "attention_mask": mask}


def _sources(module: Any, name: str) -> dict[str, torch.Tensor]:
    """Return three rows for the encoder, padded on the right where it reads a mask."""
    signature = describe(module, name=name)
    drawn = signature.draw(Case(name="survey", lengths={"batch": 3}, padding="none"))
    inputs = {key: torch.as_tensor(value) for key, value in drawn.items() if not key.startswith("decoder_")}
    if "attention_mask" in inputs:
        mask = torch.ones_like(inputs["attention_mask"])
        mask[0, mask.shape[1] // 2 :] = 0
        mask[2, (3 * mask.shape[1]) // 4 :] = 0
        inputs["attention_mask"] = mask
    return inputs


def _generate(model: Any, subject: Subject, way: str, **further: Any) -> Any:
    new = _new_tokens(subject.module.config)
    settings: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    if subject.kind == "decoder":
        settings["pad_token_id"] = 0
    with torch.no_grad():
        return model.generate(**dict(subject.inputs), **settings, **_WAYS[way], **further)


def _new_tokens(config: Any) -> int:
    """Return how many tokens fit behind the first."""
    positions = getattr(config, "max_target_positions", None)
    return _NEW if positions is None else min(_NEW, positions - 1)


def _generated_by_eager(subject: Subject) -> int:
    """Keep eager's texts; return the number of different tokens that it chose greedily."""
    for way in _WAYS:
        subject.texts[way] = _generate(subject.module, subject, way)
    return len(set(subject.texts["greedy"][:, -_new_tokens(subject.module.config) :].flatten().tolist()))


def _outcome(subject: Subject, target: str) -> dict[str, str]:
    try:
        with TemporaryDirectory(prefix="optimum-family-") as cache, _hasty():
            fast = accelerate(subject.module, target=target, budget=_BUDGET, cache_dir=cache)
            return _compared(subject, fast)
    except OptimumError as error:
        return {"outcome": "refused", "reason": str(error)}
    except Exception as error:  # noqa: BLE001
        return {"outcome": "error", "reason": f"{type(error).__name__}: {error}"}


def _why_forward_only(subject: Subject) -> str:
    """Return why `accelerate` makes one forward pass of a model; "": it makes one that generates."""
    try:
        describe_decoder(subject.module, describe(subject.module, name=subject.name))
    except NotADecoderError as error:
        return str(error)
    return ""


def _hasty() -> Any:
    """Measure no longer than one call: which candidate is the fastest does not matter here."""
    return measuring(Effort(rounds=1, seconds=0.001, steady=math.inf))


def _compared(subject: Subject, fast: Any) -> dict[str, str]:
    """Return whether texts are equal to eager's; a difference is followed to its step."""
    ties = []
    for way, wanted in subject.texts.items():
        found = _generate(fast, subject, way)
        if torch.equal(found, wanted):
            continue
        if not (gap := _gap(subject, fast, way)) < _TIE:
            return {"outcome": "WRONG", "reason": f"{way}: {_first_difference(found, wanted)}, scores {gap:.1e} apart"}
        ties.append(way)
    return {"outcome": "equal", "reason": f"but for ties in {', '.join(ties)}" if ties else ""}


def _gap(subject: Subject, fast: Any, way: str) -> float:
    """Return how far apart both sides' scores of the step are that decided otherwise."""
    asked: dict[str, Any] = {"output_scores": True, "return_dict_in_generate": True}
    theirs, ours = (_generate(model, subject, way, **asked) for model in (subject.module, fast))
    if way != "greedy":
        return float((theirs.sequences_scores - ours.sequences_scores).abs().max())
    worst = 0.0
    start = theirs.sequences.shape[1] - len(theirs.scores)
    for row, step in _differing(theirs.sequences[:, start:], ours.sequences[:, start:]):
        finite = theirs.scores[step][row].isfinite()
        one, other = theirs.scores[step][row][finite], ours.scores[step][row][finite]
        worst = max(worst, float((one - other).abs().max() / one.abs().max()))
    return worst


def _differing(wanted: torch.Tensor, found: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Yield the rows that differ, each with its first step that does."""
    width = min(wanted.shape[1], found.shape[1])
    for row, differs in enumerate(wanted[:, :width] != found[:, :width]):
        if differs.any():
            yield row, int(differs.nonzero()[0])


def _first_difference(found: torch.Tensor, wanted: torch.Tensor) -> str:
    if found.shape != wanted.shape:
        return f"{tuple(found.shape)} for {tuple(wanted.shape)}"
    width = wanted.shape[1]
    return ", ".join(f"row {row} differs from token {step} of {width}" for row, step in _differing(wanted, found))


if __name__ == "__main__":
    main(sys.argv[1:])
