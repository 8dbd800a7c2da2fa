"""Returned containers, keys and constants come back as they were, or the model is refused before anything is built."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from optimum_core import accelerate, load
from optimum_core.artifact import Structure
from optimum_core.artifact.serialization import from_plain, to_plain
from optimum_core.errors import InputError, SourceError, VerificationError
from optimum_core.models.eager.outputs import agreed, flatten, structure_of
from optimum_core.models.signatures.signature import describe
from optimum_core.runtime.call_outputs import Answer, Answerer

Boxes = namedtuple("Boxes", "boxes scores")


class Scored(NamedTuple):
    logits: Any
    labels: int = 3


@dataclasses.dataclass
class Own(ModelOutput):  # type: ignore[misc]
    logits: Any = None
    extra: Any = None


@dataclasses.dataclass
class Plain:
    logits: Any


Y = torch.arange(6, dtype=torch.float32).reshape(2, 3)

RETURNED: dict[str, Any] = {
    "tensor": Y,
    "scalar": Y.sum(),
    "list": [Y, Y + 1],
    "one of a list": [Y],
    "tuple with None": (Y, None, 2 * Y),
    "one tensor twice": (Y, Y),
    "constants": {"y": Y, "temperature": 0.07, "name": "t", "on": True, "n": 3, "none": None, "far": float("inf")},
    "dots in keys": {"layer1.out": Y, "layer2.out": Y + 1},
    "digits in keys": {"f": {"0": Y, "1": Y + 1}},
    "numbers as keys": {0: Y, "0": Y + 1, 2.5: Y + 2, None: Y + 3, True: Y + 4},
    "names that meet": {"a.b": Y, "a": {"b": Y + 1}, "": {"a.b": Y + 2}, "z": Y + 3},
    "ordered": OrderedDict(b=Y, a=Y + 1),
    "named tuple": Boxes(Y, Y + 1),
    "typed named tuple": Scored(Y),
    "torch's own named tuple": torch.max(Y, dim=1),
    "empty ones": {"y": Y, "e": {}, "t": (), "l": []},
    "twelve": tuple(Y + index for index in range(12)),
    "mixture": [{"a": (Y, [Boxes({1: Y + 1}, None)])}, Own(logits=Y + 2, extra=[Y + 3])],
    "output class": BaseModelOutput(last_hidden_state=Y, hidden_states=(Y + 1, Y + 2)),
    "output class in another": Own(logits=Y, extra=BaseModelOutput(last_hidden_state=Y + 1)),
    "ints and bools": (Y.long(), Y > 2),
}


def _same(want: Any, got: Any) -> None:
    if isinstance(want, torch.Tensor):
        assert isinstance(got, torch.Tensor) and (want.shape, want.dtype) == (got.shape, got.dtype)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        return
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert list(map(repr, got)) == list(map(repr, want))
        want, got = list(want.values()), list(got.values())
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(want, got, strict=True):
            _same(one, other)
    else:
        assert got == want


def _answer(value: Any, *, as_torch: bool, in_memory: bool = True) -> Any:
    flat = flatten(value)
    structure = from_plain(to_plain(structure_of(value, "m"), "m"), Structure)  # as a manifest keeps it
    answerer = Answerer(structure, tuple(flat), in_memory=in_memory)
    return answerer.answer({name: tensor.numpy() for name, tensor in flat.items()}, as_torch=as_torch)


@pytest.mark.parametrize("value", RETURNED.values(), ids=RETURNED)
def test_what_was_returned_comes_back(value: Any) -> None:
    _same(value, _answer(value, as_torch=True))


def test_arrays_come_back_in_the_same_containers() -> None:
    made = _answer([{"a": (Y, None)}, Boxes(Y + 1, 2)], as_torch=False)
    assert isinstance(made[0]["a"][0], np.ndarray) and made[0]["a"][1] is None
    assert isinstance(made[1], Boxes) and isinstance(made[1].boxes, np.ndarray) and made[1].scores == 2


def test_a_named_tuple_that_is_not_known_here_is_made_after_it() -> None:
    structure = dataclasses.replace(structure_of(Boxes(Y, 3), "m"), name="no.such.module.Found")
    made = Answerer(structure, ("output.0",)).answer({"output.0": Y.numpy()}, as_torch=True)
    assert (type(made).__name__, made._fields, made.scores) == ("Found", ("boxes", "scores"), 3)
    torch.testing.assert_close(made.boxes, Y)


@pytest.mark.parametrize("path", ["os.stat_result", "subprocess.Popen", "optimum_core.types.Report", "class.1 + 1"])
def test_a_manifest_cannot_name_a_class_to_call(path: str) -> None:
    named = dataclasses.replace(structure_of(Boxes(Y, Y), "m"), name=path)
    made = Answerer(named, ("output.0", "output.1"), in_memory=True).answer(flatten((Y, Y)), as_torch=False)
    assert made._fields == ("boxes", "scores")
    output = dataclasses.replace(structure_of(Own(logits=Y), "m"), name=path)
    assert type(Answerer(output, ("logits",), in_memory=True).answer({"logits": Y}, as_torch=False)) is Answer


def test_an_own_class_of_outputs_comes_back_where_the_model_is_here_alone() -> None:
    assert type(_answer(Own(logits=Y), as_torch=True)) is Own
    assert type(_answer(Own(logits=Y), as_torch=True, in_memory=False)) is Answer


def test_caches_are_left_out() -> None:
    made = _answer((Y, DynamicCache()), as_torch=True)
    assert made[1] is None


REFUSED: dict[str, tuple[Any, str]] = {
    "dataclass": ({"a": [Plain(Y)]}, r"output\['a'\]\[0\] is a .*Plain"),
    "set": ((Y, {1}), r"output\[1\] is a builtins\.set"),
    "dtype": ((Y, Y.dtype), r"torch\.dtype"),
    "size": ((Y, Y.shape), r"torch\.Size"),
    "array": ((Y, np.ones(2)), r"numpy\.ndarray"),
    "number of numpy": ((Y, np.float64(1)), r"numpy\.float64"),
    "defaultdict": (defaultdict(list, y=Y), r"defaultdict"),
    "key": ({(1, 2): Y}, r"the key \(1, 2\) of tuple"),
    "nothing": (None, "returns no tensor"),
    "only text": ({"a": "b"}, "returns no tensor"),
}


@pytest.mark.parametrize(("value", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_given_back_is_named(value: Any, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        structure_of(value, "model 'm'")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((Y, 2), (Y, 3), r"output\[1\] is 2, and 3 in another"),
        ((Y, 1), (Y, True), r"output\[1\] is 1, and True"),
        ({"a": [Y]}, {"a": [Y, Y]}, r"output\['a'\] is a list of 1, and a list of 2"),
        ((Y, None), (Y, Y), r"output\[1\] is None, and a tensor"),
        ({"a": Y}, {"b": Y}, "a dict of 1"),
    ],
)
def test_what_depends_on_the_call_is_refused(one: Any, other: Any, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        agreed("model 'm'", [one, other])
    assert agreed("m", [one, one]) == structure_of(one, "m")


class Module(torch.nn.Module):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
        self.make = make

    def forward(self, x: Any, bias: Any = None, *, scale: Any = None) -> Any:
        out = self.layer(x) if bias is None else self.layer(x) + bias
        return self.make(out if scale is None else out * scale)


def test_a_number_that_follows_the_values_is_found_out() -> None:
    with pytest.raises(SourceError, match="depends on the call"):
        describe(Module(lambda y: (y, float(y.sum()))).eval(), name="m", samples={"x": torch.rand(2, 8)})


@pytest.mark.parametrize("make", [lambda y: (y, y.shape[0]), lambda y: list(y.unbind())])
def test_an_axis_that_decides_a_number_is_fixed_at_the_samples_length(make: Callable[[Any], Any]) -> None:
    signature = describe(Module(make).eval(), name="m", samples={"x": torch.rand(2, 8)})
    assert signature.inputs[0].shape == (2, 8)
    assert [str(axis) for axis in signature.fixed] == ["batch is fixed at 2"]


def test_from_the_model_to_the_artifact_and_back(tmp_path: Path) -> None:
    model = Module(lambda y: [{"a.b": y, "n": 0.5}, Boxes(y.sum(), None), (torch.max(y, 1), y, y)]).eval()
    x, scale = torch.randn(3, 8), torch.randn(3, 8)
    fast = accelerate(
        model, target="ort", budget=0, cache_dir=tmp_path, sample_inputs={"scale": scale[:2], "x": torch.rand(2, 8)}
    )
    fast.save_pretrained(tmp_path / "out")
    with fast, torch.no_grad(), load(tmp_path / "out") as again:
        want = model(x, scale=scale)
        for copy in (fast, again):
            _same(want, copy(x, scale=scale))
            _same(want, copy(scale=scale, x=x, bias=None))
            with pytest.raises(InputError, match="'bias', argument 2 of its forward, was not exported"):
                copy(x, scale)
            with pytest.raises(InputError, match="2 inputs by position, 3 came"):
                copy(x, None, scale)


def test_an_axis_that_is_fixed_is_told(tmp_path: Path) -> None:
    module, x = Module(lambda y: (y, y.shape[1])).eval(), torch.rand(2, 5, 8)
    with accelerate(module, sample_inputs=(x,), target="ort", budget=0, cache_dir=tmp_path) as fast:
        assert fast.report is not None
        assert [note for note in fast.report.notes if note.startswith("axis 1 of input 'x' is fixed at 5: ")]
        assert "; axis 1 of input 'x' is fixed at 5" in repr(fast)
        assert fast(torch.rand(3, 5, 8))[1] == 5  # batch is free


class Weighty(torch.nn.Module):
    """Returns a parameter of its own beside what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.layer(x), self.layer.weight


@pytest.mark.parametrize("target", ["ort", "torch"])
def test_a_parameter_among_the_outputs_comes_back(target: str, tmp_path: Path) -> None:
    module, x = Weighty(), torch.randn(3, 8)
    with accelerate(module, sample_inputs=(x[:2],), target=target, budget=0, cache_dir=tmp_path) as fast:
        made, weight = fast(x)
        torch.testing.assert_close(made, module(x)[0].detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weight, module.layer.weight.detach())


def test_an_output_with_the_name_of_an_input_is_named_as_the_cause(tmp_path: Path) -> None:
    module = Module(lambda y: {"x": y}).eval()
    with pytest.raises(VerificationError, match="its output 'x' is named as an input"):
        accelerate(module, sample_inputs=(torch.rand(2, 8),), target="ort", budget=0, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (torch.Tensor.to_sparse, "float32, sparse_coo"),
        (torch.Tensor.bfloat16, "bfloat16, strided"),
    ],
)
def test_what_no_array_holds_is_named(convert: Callable[[torch.Tensor], torch.Tensor], said: str) -> None:
    class Converting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"dense": x, "other": convert(x)}

    with pytest.raises(SourceError, match=f"'other' of its outputs is a tensor that no array can hold .{said}"):
        describe(Converting().eval(), name="converting", samples={"x": Y})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda y: (part for part in y), r"output is a builtins\.generator"),
        (lambda y: y.detach().numpy(), r"output is a numpy\.ndarray"),
        (lambda y: Plain(y), r"output is a .*Plain"),
        (lambda y: (), "returns no tensor"),
        (lambda y: None, "returns no tensor"),
    ],
)
def test_a_model_whose_whole_answer_cannot_be_given_back_is_refused_with_that(
    make: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        describe(Module(make).eval(), name="odd", samples={"x": torch.ones(2, 8)})
