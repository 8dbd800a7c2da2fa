"""Reference cases: both sides of each switch, sizes off the grid, a row without tokens; and the lengths they prove."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BigBirdConfig,
    GPT2Config,
    LlamaConfig,
    LongformerConfig,
    SwinConfig,
    SwinForImageClassification,
)

from optimum_core.errors import VerificationError
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.axes import MANY, off_the_grid
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.signatures.switches import ConfigNumbers, lengths_around, numbers_of, with_rungs
from optimum_core.types import AxisRange, Fidelity
from optimum_core.verify import ReferenceCase, failing_axes, verify
from optimum_core.verify.empty_rows import EMPTY, SHORT, SILENT
from optimum_core.verify.planned_cases import planned_cases
from optimum_core.verify.ranges import proved, right_up_to
from optimum_core.verify.reference import GIVEN, cases_at, reference_cases, remembers

Asked = tuple[Any, ModelSignature, tuple[ReferenceCase, ...]]


# -- which lengths ----------------------------------------------------------------------------------------------------


def test_a_configuration_names_its_switches() -> None:
    assert numbers_of(BigBirdConfig()) == ConfigNumbers(positions=(4096,), switches=(64, 704))
    assert numbers_of(LongformerConfig(attention_window=[256, 512])).switches == (256, 512)
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
    assert numbers_of(LlamaConfig(max_position_embeddings=2048, rope_parameters=rope)).positions == (512, 2048)
    assert numbers_of(GPT2Config(n_positions=77)).positions == (77,)
    assert numbers_of(None) == ConfigNumbers()


def test_numbers_are_found_in_parts_and_from_the_tokenizer() -> None:
    class Part:
        def __init__(self, **settings: Any) -> None:
            self.__dict__.update(settings)

        def to_dict(self) -> dict[str, Any]:
            return vars(self)

    config = Part(text_config=Part(sliding_window=96, use_window=True, num_blocks=3), max_seq_len=300)
    assert numbers_of(config) == ConfigNumbers(positions=(300,), switches=(96,))
    assert numbers_of(config, Part(model_max_length=128)).positions == (128, 300)
    assert numbers_of(config, Part(model_max_length=10**30)).positions == (300,)


def test_lengths_lie_on_both_sides_of_a_switch_and_within_the_limit() -> None:
    numbers = ConfigNumbers(positions=(256,), switches=(16, 64))
    assert lengths_around(numbers, 29, None) == (64, 65, 256, 384)
    assert lengths_around(numbers, 29, 250) == (64, 65, 250)
    assert with_rungs((3000,), 200) == (800, 3000)


# -- what is asked ----------------------------------------------------------------------------------------------------


class Switches(torch.nn.Module):
    """Does otherwise beyond its window."""

    def __init__(self, window: int = 40) -> None:
        super().__init__()
        self.config = SimpleNamespace(attention_window=window, vocab_size=50)
        self.words = torch.nn.Embedding(50, 8)
        self.window = window

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.words(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return {"hidden": hidden * (2 if input_ids.shape[1] > self.window else 1)}


@pytest.fixture(scope="module")
def switches() -> Asked:
    torch.manual_seed(0)
    module = Switches().eval()
    signature = describe(module, name="switches")
    return module, signature, reference_cases(module, signature)


def _unswitched(inputs: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """As a graph that was traced on a short text."""
    traced = Switches(window=10**6).eval()
    traced.load_state_dict(asked[0].state_dict())
    return eager_outputs(traced, inputs)


def test_a_switch_is_seen_and_the_axis_ends_before_it(switches: Asked) -> None:
    _, signature, cases = switches
    assert {"sequence 40", "sequence 41", "sequence 200", "sequence 1"} <= {case.name for case in cases}
    fidelity = verify(lambda inputs: _unswitched(inputs, switches), cases, signature.outputs, precision="fp32")
    assert failing_axes(fidelity, cases) == frozenset({"sequence"})
    assert right_up_to(fidelity, cases, signature.layout.lengths) == {"sequence": (1, 40)}


def test_what_was_proved_of_an_axis_is_a_range(switches: Asked, described: Callable[[str], Any]) -> None:
    _, signature, cases = switches
    assert proved(signature, cases) == {"batch": AxisRange(proved=(1, MANY)), "sequence": AxisRange(proved=(1, 200))}
    module, signature = described("bert")
    sequence = proved(signature, reference_cases(module, signature))["sequence"]
    assert (sequence.greatest, sequence.proved) == (64, (1, 64)), "as long as the model takes"


def test_an_axis_that_is_wrong_everywhere_is_not_limited_but_fixed(switches: Asked) -> None:
    _, signature, cases = switches
    traced = signature.layout.lengths

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        wrong = inputs["input_ids"].shape[1] != traced["sequence"]
        return {name: value + wrong for name, value in eager_outputs(switches[0], inputs).items()}

    fidelity = verify(run, cases, signature.outputs, precision="fp32")
    assert right_up_to(fidelity, cases, traced) == {}
    nothing: Fidelity = verify(lambda inputs: {}, cases, signature.outputs, precision="fp32")
    assert right_up_to(nothing, cases, traced) == {}


def test_pictures_are_compared_off_the_grid_and_at_their_configured_size(described: Callable[[str], Any]) -> None:
    _, signature = described("resnet")
    sizes = {(c.lengths.get("height", 64), c.lengths.get("width", 96)) for c in planned_cases(signature)}
    assert {(65, 96), (64, 99), (59, 99), (64, 64)} <= sizes
    assert off_the_grid(signature.layout, 16)[1] == {"width": 96 + 15}


def test_what_eager_refuses_is_no_case(switches: Asked) -> None:
    class Refuses(Switches):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
            if input_ids.shape == (3, 29):
                raise RuntimeError("not both at once")
            return super().forward(input_ids, attention_mask)

    module = Refuses().eval()
    signature = describe(module, name="refuses")
    names = [case.name for case in reference_cases(module, signature)]
    assert "every axis at once" not in names
    assert {"batch 3", "sequence 29"} <= set(names)
    with pytest.raises(VerificationError, match=r"does not run at batch 3, sequence 29.*not both at once"):
        cases_at(module, signature, {"3x29": {"batch": 3, "sequence": 29}})


# -- rows without any token -------------------------------------------------------------------------------------------


def _spoiled(asked: Asked, spoil: Callable[[Any, Any], None]) -> Fidelity:
    module, signature, cases = asked

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = eager_outputs(module, inputs)
        empty = ~inputs["attention_mask"].any(axis=1)
        if empty.any():
            spoil(outputs["hidden"], empty)
        return outputs

    return verify(run, cases, signature.outputs, precision="fp32")


def test_a_row_without_tokens_may_differ_and_that_is_said(switches: Asked) -> None:
    def other(hidden: Any, empty: Any) -> None:
        hidden[empty] = 7.0

    fidelity = _spoiled(switches, other)
    assert fidelity.passed
    assert fidelity.notes == ("a row without any token gives other values than eager's",)
    assert _spoiled(switches, lambda hidden, empty: None).notes == ()


@pytest.mark.parametrize("rows", ["empty", "others"])
def test_a_row_without_tokens_must_be_finite_and_harm_no_other(rows: str, switches: Asked) -> None:
    def spoil(hidden: Any, empty: Any) -> None:
        hidden[empty if rows == "empty" else ~empty] = np.nan if rows == "empty" else 7.0

    fidelity = _spoiled(switches, spoil)
    assert [result.case for result in fidelity.results if not result.passed] == [EMPTY]


class Sound(torch.nn.Module):
    """A mean of the samples that are not masked, by attention."""

    main_input_name = "input_values"
    config = SimpleNamespace()

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        samples = input_values[:, :, None]
        seen = None if attention_mask is None else attention_mask.bool()[:, None, :]
        return self.attend(torch.ones_like(samples[:, :1]), samples, seen)[:, 0]

    def attend(self, query: torch.Tensor, samples: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, samples, samples, attn_mask=seen)


class TakenApart(Sound):
    """The same as a graph has it: softmax over nothing but -inf is NaN."""

    def attend(self, query: torch.Tensor, samples: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        scores = query @ samples.transpose(1, 2)
        scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) @ samples


def test_a_sound_without_samples_must_be_finite_too() -> None:
    module = Sound().eval()
    signature = describe(module, name="sound")
    cases = reference_cases(module, signature)
    fidelity = verify(lambda x: eager_outputs(TakenApart(), x), cases, signature.outputs, precision="fp32")
    assert [result.case for result in fidelity.results if not result.passed] == [SILENT]
    assert verify(lambda x: eager_outputs(module, x), cases, signature.outputs, precision="fp32").passed


def test_a_sound_shorter_than_a_frame_is_a_case_of_its_own(tiny: Callable[..., Any]) -> None:
    module = tiny("wav2vec2")
    signature = describe(module, name="sound")
    least = 1
    for kernel, stride in zip(reversed(module.config.conv_kernel), reversed(module.config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    assert signature.ranges["samples"].least == least > 1
    short = {case.lengths.get("samples", 0) for case in planned_cases(signature)}
    assert sum(least < length <= 4 * least for length in short) >= 3, "where each frame counts"
    cases = {case.name: case for case in reference_cases(module, signature)}
    assert f"samples {least}" in cases, "the shortest sound is compared"
    assert cases[SHORT].inputs["attention_mask"].sum(1)[-1] == least - 1
    assert cases[SHORT].empty is not None, "what eager makes of it means nothing"


class TwoTexts(torch.nn.Module):
    """A mean of the tokens of either text."""

    config = SimpleNamespace(vocab_size=20)

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(20, 4)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        return self.mean(input_ids, attention_mask) + self.mean(decoder_input_ids, decoder_attention_mask)

    def mean(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        counts = mask[..., None].float()
        found: torch.Tensor = (self.embeddings(ids) * counts).sum(1) / counts.sum(1).clamp_min(1)
        return found


def test_texts_are_without_tokens_together_and_alone() -> None:
    """A decoder's row without tokens may come out right where the encoder's has none either, and wrong alone."""
    torch.manual_seed(0)
    module, ids = TwoTexts().eval(), torch.randint(2, 20, (2, 9))
    masks = {name: torch.ones_like(ids) for name in ("attention_mask", "decoder_attention_mask")}
    signature = describe(module, name="texts", samples={"input_ids": ids, "decoder_input_ids": ids, **masks})
    cases = reference_cases(module, signature)
    empty = {case.name: case for case in cases if case.empty is not None}
    assert [*empty] == [EMPTY, f"{EMPTY} in attention_mask", f"{EMPTY} in decoder_attention_mask"]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = eager_outputs(module, inputs)
        alone = ~inputs["decoder_attention_mask"].any(1) & inputs["attention_mask"].any(1)
        return {name: np.where(alone[:, None], 7, values) for name, values in outputs.items()}

    fidelity = verify(run, cases, signature.outputs, precision="fp32")
    assert fidelity.passed
    assert fidelity.notes == (f"{EMPTY} in decoder_attention_mask gives other values than eager's",)


# -- models that remember ---------------------------------------------------------------------------------------------


def test_a_model_that_remembers_is_found_out(described: Callable[[str], Any], switches: Asked) -> None:
    torch.manual_seed(0)
    config = SwinConfig(image_size=64, window_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2])
    model = SwinForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    cases = reference_cases(model, describe(model, name="swin"))
    assert remembers(model, cases) is not None
    assert remembers(switches[0], switches[2]) is None


def test_eager_that_refuses_every_call_says_why(described: Callable[[str], Any]) -> None:
    class Broken(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            raise RuntimeError("it is broken since")

    with pytest.raises(VerificationError, match=r"refuses every call .* the first: RuntimeError: it is broken since"):
        reference_cases(Broken(), described("bert")[1])


def test_lengths_are_not_to_blame_for_values_of_no_rule() -> None:
    module = Many().eval()
    signature = describe(module, name="many", samples={"x": torch.full((3, 3), 7.0)})
    cases = reference_cases(module, signature)

    def wrong_at_sevens(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"output": module(torch.from_numpy(inputs["x"])).numpy() + float((inputs["x"] == 7).all())}

    fidelity = verify(wrong_at_sevens, cases, signature.outputs, precision="fp32")
    (wrong,) = {result.case for result in fidelity.results if not result.passed}
    assert any(case.name == wrong == GIVEN and case.varied for case in cases)
    assert failing_axes(fidelity, cases) is None


def test_two_axes_that_fail_together_end_before_the_lengths_at_which_they_do() -> None:
    module = Many().eval()
    signature = describe(module, name="many", samples={"x": torch.randn(2, 6)})
    cases = reference_cases(module, signature)
    fidelity = verify(lambda inputs: {"output": 2 * inputs["x"]}, cases, signature.outputs, precision="fp32")
    ranges = right_up_to(fidelity, cases, signature.layout.lengths)
    assert failing_axes(fidelity, cases) == frozenset(ranges) == frozenset({"batch", "axis1_6"})
    assert 100 <= ranges["batch"][1] * ranges["axis1_6"][1] <= 250


class Many(torch.nn.Module):
    """Doubles up to 250 numbers, and triples more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (3 if x.numel() > 250 else 2)
