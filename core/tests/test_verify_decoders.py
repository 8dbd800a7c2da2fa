"""A quantized decoder is compared with itself, which finds what rounding would hide, and with eager over text."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.generation.model_session import GenerativeSession
from optimum_core.models.decoders.eager_state import EagerDecoderSession
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.references.whole_texts import eager_parts
from optimum_core.testing import encoder_decoders
from optimum_core.testing.decoders import decoder, decoder_of, described
from optimum_core.testing.encoder_decoders import encoder_decoder
from optimum_core.types import Fidelity
from optimum_core.types.arrays import NDArray
from optimum_core.verify import ReferenceCase
from optimum_core.verify.dialogues import Dialogue, drawn_dialogues, with_dialogues
from optimum_core.verify.divergence import Divergence
from optimum_core.verify.quantized_decoder import DecoderReference, verify_decoder

IDS = np.random.default_rng(8).integers(3, 99, (1, 40))


@pytest.fixture(scope="module")
def dialogues() -> tuple[Dialogue, ...]:
    drawn = drawn_dialogues(decoder("llama"), described("llama"))
    return tuple(dialogue for dialogue in drawn if isinstance(dialogue, Dialogue))


def rounded(module: Any, bits: int) -> Any:
    """Return a copy of the model with the weights of its layers rounded."""
    made = copy.deepcopy(module)
    steps = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 2 and "layers" in name:
                scale = weight.abs().amax(1, keepdim=True) / steps
                weight.copy_((weight / scale).round() * scale)
    return made


def session(module: Any, precision: str = "fp32") -> EagerDecoderSession:
    known = decoder_of(described("llama"))
    return EagerDecoderSession(
        inputs=known.inputs, outputs=known.outputs, state=known.state, module=module, precision=precision
    )


def compared(
    opened: Any, dialogues: Sequence[Dialogue], unseen: tuple[ReferenceCase, ...] = (), **settings: Any
) -> Fidelity:
    signature = described("llama")
    made = Decoder(opened, lambda state: state.run)
    whole = GenerativeSession(made, signature.inputs, signature.outputs)
    reference = DecoderReference(drawn=(), dialogues=dialogues, unseen=unseen, outputs=signature.outputs)
    return verify_decoder(made, whole.run, reference, arithmetic="fp32", **settings)


def test_rounding_is_measured_on_eagers_text(dialogues: tuple[Dialogue, ...]) -> None:
    found = {
        bits: compared(session(rounded(decoder("llama"), bits)), dialogues, precision="int4", binding=False)
        for bits in (8, 4)
    }
    fine, coarse = found[8].results[-1], found[4].results[-1]
    assert fine.passed and coarse.passed and "tokens of eager's greedy text" in coarse.case
    assert fine.relative_error < coarse.relative_error / 4
    assert fine.agreement is not None and coarse.agreement is not None and fine.agreement >= coarse.agreement
    assert 0 < (fine.divergence or 0) < (coarse.divergence or 0) / 10
    binding = compared(session(rounded(decoder("llama"), 4)), dialogues, precision="int8", agreement=1.0)
    assert not binding.passed and "arg-max agrees" in binding.results[-1].problem


@dataclass(eq=False)
class Spoiled:
    """A state with a fault in what it remembers."""

    state: Any
    fault: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)

    def run(self, inputs: Mapping[str, NDArray]) -> Any:
        if self.fault == "padding is seen":
            inputs = {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}
        return self.state.run(inputs)

    def reorder(self, rows: Sequence[int]) -> None:
        self.state.reorder(sorted(rows) if self.fault == "rows stay" else rows)

    def fork(self) -> Any:
        return self if self.fault == "a copy is the same state" else replace(self, state=self.state.fork())


@pytest.mark.parametrize("fault", ["none", "padding is seen", "rows stay", "a copy is the same state"])
def test_a_fault_of_memory_is_found_however_coarse_the_weights(fault: str, dialogues: tuple[Dialogue, ...]) -> None:
    opened = session(rounded(decoder("llama"), 4))
    begin = opened.begin

    class Faulty:
        backend, device, state, inputs, outputs = "torch", "cpu", opened.state, opened.inputs, opened.outputs

        def begin(self, rows: int) -> Any:
            return Spoiled(begin(rows), fault)

    found = compared(Faulty(), dialogues, precision="int4", binding=False)
    assert found.passed is (fault == "none"), found.worst
    if fault != "none":
        assert found.worst is not None and found.worst.case.endswith("as each row alone")


@pytest.mark.parametrize("fault", ["none", "contexts stay"])
def test_behind_an_encoder_each_row_alone_reads_its_own_input(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, signature = encoder_decoder("t5"), encoder_decoders.described("t5")
    drawn = [item for item in drawn_dialogues(module, signature) if isinstance(item, Dialogue)]
    exchanged = next(item for item in drawn if "rows exchanged" in item.name)
    drives = eager_parts(module, signature)
    if fault != "none":
        monkeypatch.setattr(Generation, "reorder", _without_context)
    reference = DecoderReference(drawn=(), dialogues=[exchanged, drawn[-1]], unseen=(), outputs=signature.outputs)
    found = verify_decoder(drives, lambda _: {}, reference, precision="int8", arithmetic="fp32")
    assert found.passed is (fault == "none"), found.worst
    assert found.results[0].case.endswith("as each row alone")


def _without_context(generation: Any, rows: Sequence[int]) -> None:
    """Exchange the rows of a state, and not those of what the encoder gave."""
    generation._state.reorder(rows)
    generation._mask = generation._mask[list(rows)]
    generation._context = generation._context.selected(np.arange(len(rows)))


def test_unseen_texts_are_compared_where_there_are_any(dialogues: tuple[Dialogue, ...]) -> None:
    inputs = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    case = ReferenceCase(name="", inputs=inputs, outputs=eager_outputs(decoder("llama"), inputs), varied=frozenset())
    found = compared(session(decoder("llama")), dialogues[:1], (case,), precision="int8")
    assert (found.passed, found.results[-1].case, found.results[-1].agreement) == (True, "40 tokens of unseen data", 1)


def test_sixteen_bits_are_compared_with_eager_by_their_tolerance(dialogues: tuple[Dialogue, ...]) -> None:
    made = Decoder(session(decoder("llama"), "bf16"), lambda state: state.run)
    nothing = Fidelity(precision="bf16", tolerance=0.1, results=())
    found = with_dialogues(nothing, made, dialogues[-1:]).results[-1]
    assert found.divergence is not None and found.divergence > 1e-7
    assert found.relative_error > 1e-3
    assert not with_dialogues(replace(nothing, precision="fp32"), made, dialogues[-1:]).passed


def test_the_divergence_is_torchs() -> None:
    rng = np.random.default_rng(1)
    want = rng.normal(size=(50, 30)).astype(np.float32)
    have = want + rng.normal(size=want.shape).astype(np.float32) * 0.3
    found = Divergence()
    for start in range(0, 50, 20):
        found.add(want[start : start + 20], have[start : start + 20])
    near, far = (torch.log_softmax(torch.as_tensor(item, dtype=torch.float64), -1) for item in (have, want))
    expected = torch.nn.functional.kl_div(near, far, log_target=True, reduction="batchmean")
    assert found.mean == pytest.approx(float(expected))
    assert found.agreement == np.mean(want.argmax(-1) == have.argmax(-1))
    assert found.relative_error == pytest.approx(np.linalg.norm(want - have) / np.linalg.norm(want))
    have[3, 4] = np.nan
    found.add(want, have)
    assert not found.finite and found.mean == float("inf")
