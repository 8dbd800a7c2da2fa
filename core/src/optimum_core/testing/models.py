"""Tiny real models with random weights, and their eager outputs. Created once per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.testing.kinds import sharpened, tiny_module
from optimum_core.types.arrays import Arrays
from optimum_core.verify import ReferenceCase
from optimum_core.verify.reference import reference_cases


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """A model, its signature, and its eager outputs for inputs that it was not traced with."""

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]

    def draw(self, seed: int, *, batch: int = 3) -> Arrays:
        """Return new inputs of a shape other than the traced one."""
        return self.signature.draw(Case(name="drawn", lengths={"batch": batch}, seed=seed))


@cache
def model(kind: str) -> Model:
    """Return the model of one of `KINDS`.

    "text": a BERT sequence classifier with a mask; "vision": a ViT classifier; "plain": a convolutional module that
    belongs to no library, with two outputs.
    """
    module, samples = _MAKERS[kind]()
    source = MemorySource(module)
    signature = describe(source.module(), name=f"conformance {kind}", samples=samples)
    cases = reference_cases(source.module(), signature)
    return Model(source=source, signature=signature, cases=cases)


def _plain() -> tuple[Any, dict[str, Any]]:
    import torch

    class Convolutional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)
            self.second = torch.nn.Conv2d(8, 6, 3, stride=2)
            self.head = torch.nn.Linear(6, 6)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = torch.relu(self.norm(self.first(image)))
            # The mean over height and width, and class scores of it: of one shape, so that outputs may be mixed up.
            mean = torch.relu(self.second(hidden)).mean(dim=(2, 3))
            return {"scores": self.head(mean), "mean": mean}

    image = np.random.default_rng(3).standard_normal((2, 3, 18, 20)).astype(np.float32)
    return sharpened(Convolutional), {"image": image}


#: Positions of the text model: a backend may be right up to 64 tokens only, or to the length of some buffer of its own.
POSITIONS = 320

_MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "text": lambda: (tiny_module("bert", num_hidden_layers=1, max_position_embeddings=POSITIONS), None),
    "vision": lambda: (tiny_module("vit", num_hidden_layers=1), None),
    "plain": _plain,
}

#: Names of the models, as used in test ids.
KINDS = tuple(_MAKERS)
