"""Encoder-decoders with their cache in OpenVINO: equal to eager, in every way that transformers decodes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import InputError, UnavailableError
from optimum_core.measure import Effort, measuring
from optimum_core.testing.encoder_decoders import described, encoder_decoder, opened_parts
from optimum_core.types import Fidelity
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues

pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together")

IDS = torch.tensor(np.random.default_rng(3).integers(3, 99, (3, 9)))
MASK = torch.ones_like(IDS)
MASK[1, 5:] = MASK[2, 7:] = 0
_ROWS = {"attention_mask": MASK, "max_new_tokens": 16}
#: Else texts of so small a model repeat one token.
_VARIED = {**_ROWS, "no_repeat_ngram_size": 2, "eos_token_id": None}
START = torch.tensor([[2, 7, 9], [0, 2, 3], [2, 4, 4]])
START_MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1]])


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield accelerate(
            encoder_decoder("mbart"),
            target="openvino",
            cache_dir=tmp_path_factory.mktemp("cache"),
            shapes=[(1, 8, 4)],
            budget=0,
        )


def encoded(model: Any) -> Any:
    return model.get_encoder()(input_ids=IDS, attention_mask=MASK)


WAYS: dict[str, Callable[[Any], Any]] = {
    "greedy": lambda m: m.generate(IDS, do_sample=False, **_VARIED),
    "sampling": lambda m: m.generate(IDS, do_sample=True, top_k=20, top_p=0.9, temperature=0.8, **_ROWS),
    "beams": lambda m: m.generate(IDS, num_beams=4, do_sample=False, **_VARIED),
    "several answers of beams": lambda m: m.generate(
        IDS, num_beams=4, num_return_sequences=2, do_sample=False, **_VARIED
    ),
    "several draws": lambda m: m.generate(IDS, num_return_sequences=3, do_sample=True, **_ROWS),
    "processors": lambda m: m.generate(
        IDS, repetition_penalty=1.3, min_new_tokens=4, forced_bos_token_id=7, do_sample=False, **_ROWS
    ),
    "first tokens, padded on the left": lambda m: m.generate(
        IDS, decoder_input_ids=START, decoder_attention_mask=START_MASK, do_sample=False, **_VARIED
    ),
    "an encoder's output": lambda m: m.generate(encoder_outputs=encoded(m), num_beams=2, do_sample=False, **_VARIED),
    "no cache": lambda m: m.generate(IDS, do_sample=False, use_cache=False, **_VARIED),
    "scores": lambda m: torch.stack(
        m.generate(IDS, do_sample=False, return_dict_in_generate=True, output_logits=True, **_ROWS).logits
    ),
    "prompt lookup": lambda m: m.generate(IDS[:1], do_sample=False, max_new_tokens=8, prompt_lookup_num_tokens=3),
    "a call": lambda m: m(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS[:, :5]).logits,
    "a call that continues": lambda m: (
        m(
            decoder_input_ids=IDS[:, 5:7],
            attention_mask=MASK,
            encoder_outputs=encoded(m),
            past_key_values=m(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS[:, :5]).past_key_values,
        ).logits
    ),
    "the cache of a text": lambda m: _onward(m),
    "a tuple": lambda m: m(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS[:, :5], return_dict=False)[2],
}


def _onward(model: Any) -> torch.Tensor:
    """Return a text that goes on behind another, with the last tokens of its cache dropped."""
    plain = {"do_sample": False, "max_new_tokens": 8, "no_repeat_ngram_size": 2, "eos_token_id": None}
    first = model.generate(IDS[:1], return_dict_in_generate=True, **plain)
    first.past_key_values.crop(-3)
    kept = first.sequences[:, : first.past_key_values.get_seq_length()]
    written: torch.Tensor = model.generate(
        IDS[:1], decoder_input_ids=torch.cat([kept, START[1:2]], 1), past_key_values=first.past_key_values, **plain
    )
    return written


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_decoding_gives_the_result_of_eager(way: str, fast: Any) -> None:
    with torch.no_grad():
        torch.manual_seed(5)
        want = WAYS[way](encoder_decoder("mbart"))
        torch.manual_seed(5)
        got = WAYS[way](fast)
    assert want.shape == got.shape
    if want.is_floating_point():
        torch.testing.assert_close(got, want, atol=1e-3 * float(want.abs().max()), rtol=0)
    else:
        assert torch.equal(got, want)
        assert len(want.unique()) > 4


@pytest.mark.parametrize("kind", ["t5_gated", "moonshine"])
def test_families_agree_with_eager_over_whole_dialogues(kind: str, tmp_path: Path) -> None:
    """Relative positions, and an encoder that makes a mask of its own."""
    session = opened_parts(kind, "openvino", "openvino-ir", tmp_path, exporter="openvino", route="module")
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    found = with_dialogues(nothing, session.drives, drawn_dialogues(encoder_decoder(kind), described(kind)))
    assert found.passed, found.worst
    assert len(found.results) == 7


def test_what_its_parts_do_not_compute_is_refused(fast: Any) -> None:
    with pytest.raises(UnavailableError, match="output_attentions"):
        fast.generate(IDS, output_attentions=True, return_dict_in_generate=True, max_new_tokens=2)
    with pytest.raises(UnavailableError, match="labels"):
        fast(encoder_outputs=encoded(fast), decoder_input_ids=IDS[:, :2], labels=IDS)
    with pytest.raises(InputError, match="positions, and the model has 128"):
        fast.generate(IDS, max_new_tokens=200, eos_token_id=None)
    with pytest.raises(InputError, match="rows"):
        fast(encoder_outputs=encoded(fast), decoder_input_ids=IDS[:2, :2])


def test_it_generates_without_torch(fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "in.npz", ids=IDS.numpy(), mask=MASK.numpy())
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
import numpy as np
from optimum_core import load
given = np.load({str(tmp_path / "in.npz")!r})
model = load({str(tmp_path / "model")!r})
made = model.generate(given["ids"], attention_mask=given["mask"], max_new_tokens=12, forced_bos_token_id=9)
print(made.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    want = encoder_decoder("mbart").generate(
        IDS, attention_mask=MASK, max_new_tokens=12, forced_bos_token_id=9, do_sample=False, num_beams=1
    )
    assert done.stdout.strip() == str(want.tolist())


def test_pictures_of_a_decoder_are_fixed_to_one_size_where_a_trace_holds_for_no_other(tmp_path: Path) -> None:
    """Donut fills its windows up by Python's `if`. It was refused as a whole."""
    module = encoder_decoder("donut")
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(module, target="openvino", cache_dir=tmp_path / "cache", shapes=[(1, 4)], budget=0)
    assert fast.can_generate() and fast.report is not None
    assert any("width is fixed at 64" in note for note in fast.report.notes)
    pixels = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(3))
    asked: dict[str, Any] = {"max_new_tokens": 24, "num_beams": 2, "no_repeat_ngram_size": 2, "eos_token_id": None}
    want = module.generate(pixels, do_sample=False, **asked)
    assert torch.equal(fast.generate(pixels, do_sample=False, **asked), want)
    assert not torch.equal(want[0], want[1])
    with pytest.raises(InputError, match="pixel_values"):
        fast.generate(torch.zeros(1, 3, 32, 68), max_new_tokens=2)
