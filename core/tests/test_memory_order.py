"""Models that ask how their inputs lie in memory, or in which order they come: calls that a graph cannot tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, VerificationError
from optimum_core.models.signatures.signature import describe
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.types import TensorSpec
from optimum_core.verify.gradients import minds_gradients
from optimum_core.verify.reference import reference_cases

PICTURE = torch.randn(2, 3, 4, 5)


class Asking(torch.nn.Module):
    """Doubles its first input where a question about it is answered by yes."""

    def __init__(self, question: Any) -> None:
        super().__init__()
        self.question = question

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        found = x * (2 if self.question(x) else 1)
        return found if y is None else found + y.sum()


class Viewing(Asking):
    """Refuses a second input that `view` does not take."""

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        assert y is not None
        return super().forward(x) + y.view(-1).sum()


def _kept(module: torch.nn.Module, **samples: torch.Tensor) -> set[str]:
    signature = describe(module, name="asking", samples=samples)
    return {spec.name for spec in signature.inputs if spec.contiguous}


@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.is_contiguous(),
        lambda x: x.stride(-1) == 1,
        lambda x: x.is_contiguous(memory_format=torch.channels_last),
        lambda x: bool((x.as_strided((5,), (1,)) == x.flatten()[:5]).all()),
    ],
    ids=["contiguous", "stride", "channels last", "raw memory"],
)
def test_an_input_whose_order_changes_the_answer_is_found(question: Any) -> None:
    assert _kept(Asking(question), x=PICTURE) == {"x"}


def test_of_several_inputs_only_the_one_that_is_asked_has_to_be_in_order() -> None:
    assert _kept(Asking(lambda x: x.is_contiguous()), x=PICTURE, y=PICTURE) == {"x"}


def test_a_model_that_takes_values_alone_takes_any_order() -> None:
    assert _kept(Asking(lambda x: x.mT.contiguous().sum() > 0), x=PICTURE, y=PICTURE) == set()


def test_where_one_input_is_refused_out_of_order_the_others_are_asked_about_alone() -> None:
    assert _kept(Viewing(lambda x: x.is_contiguous()), x=PICTURE, y=PICTURE) == {"x"}


@pytest.mark.parametrize("is_eager", [False, True])
def test_a_call_passes_such_an_input_in_order(is_eager: bool) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3), contiguous=True)
    checker = InputChecker("model 'asking'", [spec], is_eager=is_eager)
    array = np.ones((3, 3), dtype=np.float32)
    for value in (array, torch.from_numpy(array), array[:2]):
        assert checker.bind((), {"x": value})[0]["x"].flags.c_contiguous
    for value in (np.asfortranarray(array), torch.ones(3, 3).T, torch.ones(1, 3).expand(2, 3)):
        if is_eager:
            checker.bind((), {"x": value})
        else:
            with pytest.raises(InputError, match=r"follow its order in memory[\s\S]*contiguous\(\)"):
                checker.bind((), {"x": value})


def test_a_tensor_on_a_device_lies_in_order_too() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 3), contiguous=True, nonfinite=True)
    checker = InputChecker("model 'asking'", [spec], on_host=False)
    tensor = torch.ones(3, 3, device="meta")
    assert checker.bind((), {"x": tensor})[0]["x"] is tensor
    with pytest.raises(InputError, match="follow its order in memory"):
        checker.bind((), {"x": tensor.T})


class Numbered(torch.nn.Module):
    """A sum of its arguments, weighted by their order."""

    def forward(self, **arguments: torch.Tensor) -> Any:
        return sum(value * (place + 1) for place, value in enumerate(arguments.values()))


class Multiplied(torch.nn.Module):
    """A product of its arguments, which fails in another order."""

    def forward(self, **arguments: torch.Tensor) -> Any:
        first, second = arguments.values()
        return first @ second


class Summed(torch.nn.Module):
    """A sum of its arguments in any order."""

    def forward(self, **arguments: torch.Tensor) -> Any:
        return sum(arguments.values())


def test_an_answer_that_follows_the_order_of_keywords_is_refused() -> None:
    samples = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    numbered, summed = Numbered(), Summed()
    with pytest.raises(VerificationError, match="in another order"):
        reference_cases(numbered, describe(numbered, name="numbered", samples=samples))
    assert reference_cases(summed, describe(summed, name="summed", samples=samples))


def test_a_model_that_fails_where_keywords_come_in_another_order_is_refused() -> None:
    multiplied, samples = Multiplied(), {"a": torch.randn(2, 3), "b": torch.randn(3, 5)}
    with pytest.raises(VerificationError, match="fails where its keyword arguments come in another order"):
        reference_cases(multiplied, describe(multiplied, name="multiplied", samples=samples))


def test_a_question_whether_an_input_has_gradients_is_found() -> None:
    module = Asking(lambda x: x.requires_grad)
    assert minds_gradients(module, describe(module, name="asking", samples={"x": PICTURE})) == "output"


@pytest.mark.filterwarnings("error")
def test_no_warning_tells_of_gradients_that_were_set_for_the_question() -> None:
    module = Asking(lambda x: float(x.sum()) > 0)
    assert minds_gradients(module, describe(module, name="asking", samples={"x": PICTURE})) is None
    module = Asking(lambda x: float(x.sum()) < 1e9 and x.requires_grad)
    assert minds_gradients(module, describe(module, name="asking", samples={"x": PICTURE})) == "output"
