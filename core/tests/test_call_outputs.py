"""Outputs of a call are those of the original: class, nesting, order, and kind of array."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from optimum_core.artifact.structure import from_names
from optimum_core.models.eager.outputs import builder, find_class, flatten, structure_of
from optimum_core.runtime.call_outputs import Answer, Answerer

ONE, TWO, THREE = (np.full((2, size), float(size), dtype=np.float32) for size in (1, 2, 3))
LOGITS = "transformers.modeling_outputs.SequenceClassifierOutput"


def _named(output_class: str, *names: str) -> Answerer:
    """As for manifests that state a class and dotted names."""
    return Answerer(from_names(output_class, names), names)


def test_the_originals_class_comes_out_of_tensors() -> None:
    answer = _named(LOGITS, "logits").answer({"logits": ONE}, as_torch=True)
    assert type(answer) is SequenceClassifierOutput
    assert torch.equal(answer.logits, torch.ones(2, 1))
    assert answer.loss is None


def test_the_originals_class_comes_out_of_arrays_where_transformers_is_in_use() -> None:
    answer = _named(LOGITS, "logits").answer({"logits": ONE}, as_torch=False)
    assert type(answer) is SequenceClassifierOutput
    assert answer.logits is ONE


def test_transformers_is_not_imported_for_the_sake_of_a_class() -> None:
    code = (
        "import sys, numpy as np\n"
        "from optimum_core.artifact.structure import from_names\n"
        "from optimum_core.runtime.call_outputs import Answerer\n"
        f"made = Answerer(from_names({LOGITS!r}, ('logits',)), ('logits',))\n"
        "answer = made.answer({'logits': np.ones(2)}, as_torch=False)\n"
        "assert type(answer).__name__ == 'Answer' and answer.logits is answer[0]\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tuple_was_asked_for() -> None:
    made = _named(LOGITS, "logits", "hidden_states.0").answer(
        {"hidden_states.0": TWO, "logits": ONE}, as_torch=False, as_tuple=True
    )
    assert isinstance(made, tuple)
    assert made[0] is ONE
    assert made[1][0] is TWO


def test_numbered_outputs_are_tuples_again() -> None:
    names = ("last_hidden_state", "hidden_states.0", "hidden_states.1")
    answer = _named("transformers.modeling_outputs.BaseModelOutput", *names).answer(
        dict(zip(names, (ONE, TWO, THREE), strict=True)), as_torch=True
    )
    assert isinstance(answer, BaseModelOutput)
    assert answer.hidden_states is not None
    assert [tuple(state.shape) for state in answer.hidden_states] == [(2, 2), (2, 3)]


def test_a_tensor_is_a_tensor_again() -> None:
    answerer = _named("tensor", "output")
    assert answerer.answer({"output": ONE}, as_torch=False) is ONE
    assert torch.is_tensor(answerer.answer({"output": ONE}, as_torch=True))


def test_a_tuple_is_a_tuple_again() -> None:
    value = (torch.ones(1), (torch.zeros(2), torch.ones(3)))
    flat = flatten(value)
    made = _named("tuple", *flat).answer({k: v.numpy() for k, v in flat.items()}, as_torch=True)
    assert isinstance(made, tuple)
    assert torch.equal(made[0], value[0])
    assert torch.equal(made[1][1], value[1][1])


def test_a_mapping_reads_like_one() -> None:
    made = _named("dict", "a", "b.x").answer({"a": ONE, "b.x": TWO}, as_torch=False)
    assert made["a"] is ONE
    assert made["b"]["x"] is TWO


def test_results_keep_their_order_and_extra_ones_stay_out() -> None:
    made = _named("unknown.Class", "b", "a").answer({"a": ONE, "b": TWO, "c": THREE}, as_torch=False)
    assert list(made) == ["b", "a"]
    assert isinstance(made, Answer)


def test_only_transformers_own_classes_are_looked_up() -> None:
    assert find_class(LOGITS) is SequenceClassifierOutput
    for path in (
        "subprocess.Popen",
        "os.system",
        "dict",
        "",
        "transformersx.modeling_outputs.X",
        "transformers.logging",
    ):
        assert find_class(path) is None


def test_an_answer_reads_by_name_attribute_and_position() -> None:
    answer = Answer(logits=ONE, hidden=TWO)
    assert answer["logits"] is answer.logits is answer[0] is answer.to_tuple()[0]
    assert answer[-1] is TWO
    assert answer[:2] == (ONE, TWO) or answer[:2][1] is TWO
    assert list(answer) == ["logits", "hidden"]
    assert len(answer) == 2
    with pytest.raises(AttributeError, match="there are logits, hidden"):
        answer.logit  # noqa: B018 - the access is what is tested
    with pytest.raises(IndexError):
        answer[2]
    with pytest.raises(KeyError):
        answer["logit"]
    assert not hasattr(answer, "loss")


def test_only_tensors_have_names() -> None:
    assert list(flatten({"logits": torch.ones(1), "loss": None, "past_key_values": object(), "n": 3})) == ["logits"]
    with pytest.raises(TypeError, match="not int"):
        flatten(3)


@pytest.mark.parametrize("given", [("last_hidden_state",), ("last_hidden_state", "pooler_output")])
def test_an_output_made_directly_is_what_its_class_makes(given: tuple[str, ...]) -> None:
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as Output

    values = {name: np.ones((2, 3)) for name in given}
    quick, slow = builder(Output)(values), Output(**values)
    assert type(quick) is Output
    assert list(quick.items()) == list(slow.items())
    assert all(getattr(quick, item.name) is getattr(slow, item.name) for item in fields(Output))
    assert quick.to_tuple() == slow.to_tuple() and quick[0] is values["last_hidden_state"]
    assert quick.attentions is None and quick.last_hidden_state is values["last_hidden_state"]


def test_an_output_class_with_a_will_of_its_own_is_asked() -> None:
    from transformers.utils import ModelOutput

    @dataclass
    class Counting(ModelOutput):  # type: ignore[misc]
        logits: Any = None

        def __post_init__(self) -> None:
            super().__post_init__()
            self["count"] = 1

    assert builder(Counting)({"logits": np.ones(1)})["count"] == 1


def test_no_output_is_made_to_learn_how_it_is_made() -> None:
    from transformers.utils import ModelOutput

    @dataclass
    class Ranked(ModelOutput):  # type: ignore[misc]
        logits: Any = None
        best: Any = None

        def __post_init__(self) -> None:
            self.best = self.logits.argmax(-1)
            super().__post_init__()

    structure = structure_of(Ranked(logits=torch.eye(3)), "a model")
    answerer = Answerer(structure, ("logits", "best"), in_memory=True)
    answer = answerer.answer({"logits": np.eye(3), "best": np.arange(3)}, as_torch=False)
    assert type(answer) is Ranked
    making = answerer.made_directly(as_torch=False)
    assert making is not None and making.cls is None


def test_a_plain_class_is_filled_by_name() -> None:
    given = BaseModelOutput(last_hidden_state=torch.eye(3))
    answerer = Answerer(structure_of(given, "a model"), ("last_hidden_state",))
    answerer.answer({"last_hidden_state": np.eye(3)}, as_torch=True)
    making = answerer.made_directly(as_torch=True)
    assert making is not None and making.cls is BaseModelOutput
