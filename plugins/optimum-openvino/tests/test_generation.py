"""Decoders with their cache in OpenVINO: equal to eager, in every way that transformers decodes."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from transformers import GenerationConfig

from optimum_core import accelerate, load
from optimum_core.errors import InputError, OptionError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.hardware import detect
from optimum_core.measure import Effort, measuring
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, described
from optimum_core.types import Artifact, Fidelity, SessionRequest
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues
from optimum_openvino.softplus import exact_softplus

pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer of the letters that the models have ids for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    letters = [chr(code) for code in range(ord(" ") + 1, ord("~") + 1)]
    vocabulary = {token: index for index, token in enumerate([*special, "Ġ", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}:",
    )  # fmt: skip


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Iterator[Any]:
    folder, module = tmp_path_factory.mktemp("cache"), decoder("llama")
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield accelerate(module, target="openvino", processor=tokenizer, cache_dir=folder, shapes=[(1, 8, 4)], budget=0)


@pytest.fixture(scope="module")
def opened(exported: Callable[..., Artifact]) -> Callable[[str], Any]:
    """Exports a decoder and opens it, once for each kind."""
    found: dict[str, Any] = {}

    def open_kind(kind: str) -> Any:
        if kind not in found:
            made = exported(kind, "openvino-ir", route="module")
            found[kind] = manager().load_session(
                SessionRequest(backend="openvino", artifact=made, device="cpu", hardware=detect())
            )
        return found[kind]

    return open_kind


@pytest.mark.parametrize("kind", ["opt", "bloom", "gemma2", "gemma3n", "qwen2_moe", "mamba", "falcon_h1"])
def test_families_agree_with_eager_over_whole_dialogues(kind: str, opened: Callable[[str], Any]) -> None:
    """Positions counted by the mask, alibi, a window of 8 beside full attention, layers that read the keys and values
    of others, experts; states of a fixed size alone, and beside keys and values."""
    session = opened(kind)
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    found = with_dialogues(nothing, Decoder(session, manager().binder), drawn_dialogues(decoder(kind), described(kind)))
    assert found.passed, found.worst
    assert len(found.results) == (8 if kind in ("gemma2", "gemma3n") else 7)


def test_no_position_is_taken_out_of_states_of_a_fixed_size(opened: Callable[[str], Any]) -> None:
    generation = Decoder(opened("mamba"), manager().binder).begin(1)
    generation.feed(np.full((1, 5), 7))
    with pytest.raises(UnavailableError, match="no tokens can be taken back"):
        generation._state.crop(4)  # the backend itself, whatever drives it


def test_softplus_is_right_to_the_last_digits() -> None:
    """Recurrences take small time steps from it."""
    values = np.linspace(-40, 40, 4001, dtype=np.float32)
    value = ops.parameter([-1], np.float32)
    model = openvino.Model([ops.softplus(value)], [value])
    exact_softplus(model)
    found = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([values])[0]
    np.testing.assert_allclose(found, np.log1p(np.exp(values.astype(np.float64))), rtol=1e-5)


def test_attention_is_fused_with_its_cache(opened: Callable[[str], Any]) -> None:
    compiled = opened("opt").request().get_compiled_model()

    def kind(operation: Any) -> str:
        return str(operation.get_rt_info()["layerType"].astype(str))

    attention = [item for item in compiled.get_runtime_model().get_ops() if kind(item) == "ScaledDotProductAttention"]
    assert len(attention) == 2
    for item in attention:
        sources = [kind(port.get_source_output().get_node()) for port in item.inputs()]
        assert sources.count("MemoryInput") == 2, sources


def test_a_state_refuses_other_rows_and_calls_after_it_was_closed(opened: Callable[[str], Any]) -> None:
    generation = Decoder(opened("opt"), manager().binder).begin(2)
    with pytest.raises(InputError, match="3 rows came, and the state has 2"):
        generation.feed(np.full((3, 4), 5))
    generation.feed(np.full((2, 4), 5))  # the refused call changed nothing
    assert generation.length == 4
    generation.close()
    with pytest.raises(SessionError, match="closed"):
        generation.feed(np.full((2, 1), 5))


def test_a_mask_of_other_positions_than_the_state_holds_is_refused(opened: Callable[[str], Any]) -> None:
    state = opened("opt").begin(1)
    given = {"input_ids": np.array([[5, 6]]), "position_ids": np.array([[0, 1]]), "logits_to_keep": np.array([1])}
    run = manager().binder(state)
    with pytest.raises(InputError, match=r"attention_mask is \[1, 3\], and the state needs \[1, 2\]"):
        run({**given, "attention_mask": np.ones((1, 3), np.int64)})
    assert run({**given, "attention_mask": np.ones((1, 2), np.int64)})["logits"].shape == (1, 1, 99)


def test_a_failed_call_spoils_no_later_state(opened: Callable[[str], Any]) -> None:
    drives = Decoder(opened("opt"), manager().binder)
    want = drives.begin(1).feed(np.array([[5, 6, 7]]))
    with pytest.raises(SessionError, match="the run failed"):
        drives.begin(1).feed(np.array([[5.0, 6.0, 7.0]]))
    assert np.array_equal(drives.begin(1).feed(np.array([[5, 6, 7]])), want)


IDS = torch.tensor(np.random.default_rng(3).integers(3, 99, (3, 9)))
MASK = torch.ones_like(IDS)
MASK[1, :4] = MASK[2, :2] = 0
_ROWS = {"attention_mask": MASK, "max_new_tokens": 16, "pad_token_id": 0}


def test_arguments_for_texts_are_refused_with_tokens(fast: Any) -> None:
    for given in (IDS, IDS.numpy()):
        with pytest.raises(OptionError, match="stop: it ends texts"):
            fast.generate(given, stop=["a"], max_new_tokens=4)
    with pytest.raises(OptionError, match="streamer="):
        fast.generate(IDS, stream=True, max_new_tokens=4)
    with pytest.raises(OptionError, match="at least one character"):
        fast.generate("ab", stop=["a", ""], max_new_tokens=4)


WAYS: dict[str, Callable[[Any], Any]] = {
    "greedy": lambda m: m.generate(IDS, do_sample=False, **_ROWS),
    "sampling": lambda m: m.generate(IDS, do_sample=True, top_k=20, top_p=0.9, temperature=0.8, **_ROWS),
    "beams": lambda m: m.generate(IDS, num_beams=4, do_sample=False, **_ROWS),
    "several answers": lambda m: m.generate(IDS, num_return_sequences=3, do_sample=True, **_ROWS),
    "processors": lambda m: m.generate(
        IDS, repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=4, do_sample=False, **_ROWS
    ),
    "scores": lambda m: torch.stack(
        m.generate(IDS, do_sample=False, return_dict_in_generate=True, output_logits=True, **_ROWS).logits
    ),
    "a prefill in pieces": lambda m: m.generate(IDS, do_sample=False, prefill_chunk_size=4, **_ROWS),
    "padding on the right": lambda m: m.generate(
        IDS, attention_mask=MASK.flip(1), do_sample=False, max_new_tokens=8, pad_token_id=0
    ),
    "no cache": lambda m: m.generate(IDS, do_sample=False, use_cache=False, **_ROWS),
    "prompt lookup": lambda m: m.generate(IDS[:1], do_sample=False, max_new_tokens=16, prompt_lookup_num_tokens=3),
    "an assistant": lambda m: m.generate(IDS[:1], do_sample=False, max_new_tokens=16, assistant_model=m),
    "an assistant of other weights": lambda m: m.generate(
        IDS[:1], do_sample=False, max_new_tokens=16, assistant_model=decoder("llama", seed=21)
    ),
    "scores of beams": lambda m: _scores_of_beams(m),
    "the cache of a text": lambda m: _onward(m, dropped=0),
    "the cache of a text, cropped": lambda m: _onward(m, dropped=7),
    "stopping criteria": lambda m: m.generate(IDS, do_sample=False, stopping_criteria=[_at_most_14], **_ROWS),
    "an assistant of eager": lambda m: decoder("llama").generate(
        IDS[:1], do_sample=False, max_new_tokens=16, assistant_model=m
    ),
}


def _scores_of_beams(model: Any) -> torch.Tensor:
    asked = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "do_sample": False, **_ROWS}
    found = model.generate(IDS, return_dict_in_generate=True, output_scores=True, **asked)
    single = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    return torch.cat([found.sequences_scores[:, None], single], 1)


def _onward(model: Any, *, dropped: int) -> torch.Tensor:
    """Return a text written behind another, with the other's cache."""
    plain = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None}
    first = model.generate(IDS[:1], return_dict_in_generate=True, **plain)
    if dropped:
        first.past_key_values.crop(-dropped)
    kept = first.sequences[:, : first.past_key_values.get_seq_length()]
    written: torch.Tensor = model.generate(
        torch.cat([kept, IDS[1:2, :3]], 1), past_key_values=first.past_key_values, **plain
    )
    return written


def _at_most_14(ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
    return torch.full((len(ids),), ids.shape[1] >= 14)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_decoding_gives_the_tokens_of_eager(way: str, fast: Any) -> None:
    torch.manual_seed(1)
    want = WAYS[way](decoder("llama"))
    torch.manual_seed(1)
    got = WAYS[way](fast)
    if got.is_floating_point():
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(got, want)


def test_text_is_streamed_and_ends_at_a_string(fast: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TextStreamer

    plain: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
    whole = decoder("llama").generate(IDS[:1], **plain)
    fast.generate(IDS[:1], streamer=TextStreamer(tokenizer, skip_prompt=True), **plain)
    assert capsys.readouterr().out == tokenizer.decode(whole[0, 9:]) + "\n"
    plain |= {"stop_strings": [tokenizer.decode(whole[0, 12:14])], "tokenizer": tokenizer}
    want, got = (model.generate(IDS[:1], **plain) for model in (decoder("llama"), fast))
    assert torch.equal(got, want) and got.shape[1] < whole.shape[1]


def test_forward_goes_on_from_a_cache_as_eager_does(fast: Any) -> None:
    def two_calls(model: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            first = model(input_ids=IDS, attention_mask=MASK)
            mask = torch.cat([MASK, torch.ones(3, 2, dtype=torch.long)], 1)
            second = model(input_ids=IDS[:, :2], attention_mask=mask, past_key_values=first.past_key_values)
        return first, second

    want, got = two_calls(decoder("llama")), two_calls(fast)
    assert type(got[0]) is type(want[0])
    kept = MASK.bool()
    torch.testing.assert_close(got[0].logits[kept], want[0].logits[kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1].logits, want[1].logits, rtol=1e-4, atol=1e-4)
    last = fast(input_ids=IDS, attention_mask=MASK, logits_to_keep=1)
    torch.testing.assert_close(last.logits, got[0].logits[:, -1:], rtol=1e-4, atol=1e-4)
    assert isinstance(fast(input_ids=IDS, use_cache=False, return_dict=False), tuple)


def test_a_call_behind_padding_needs_the_mask_of_it(fast: Any) -> None:
    """Eager reads the padding as tokens there, with what no attention has made of it: nothing to agree with."""
    padded, plain = (fast(input_ids=IDS, attention_mask=mask).past_key_values for mask in (MASK, None))
    with pytest.raises(InputError, match="attention_mask is missing, and the cache holds padding"):
        fast(input_ids=IDS[:, :2], past_key_values=padded)
    assert fast(input_ids=IDS[:, :2], past_key_values=plain).logits.shape[1] == 2


def test_generate_takes_what_transformers_takes_by_position(fast: Any) -> None:
    settings = GenerationConfig(max_new_tokens=5, do_sample=False)
    assert torch.equal(fast.generate(IDS[:1], settings), fast.generate(IDS[:1], generation_config=settings))
    with pytest.raises(UnavailableError, match="assistant_early_exit"):
        fast.generate(IDS[:1], assistant_early_exit=1, max_new_tokens=2)


def test_a_prefix_is_used_twice(fast: Any) -> None:
    prefix = fast(input_ids=IDS[:1, :6]).past_key_values
    whole = fast.generate(IDS[:1], do_sample=False, max_new_tokens=8)
    for _ in range(2):
        got = fast.generate(IDS[:1], past_key_values=copy.deepcopy(prefix), do_sample=False, max_new_tokens=8)
        assert torch.equal(got, whole)
    assert prefix.get_seq_length() == 6


def test_another_cache_than_its_own_is_refused(fast: Any) -> None:
    from transformers import DynamicCache

    with pytest.raises(InputError, match="DynamicCache"):
        fast.generate(IDS[:1], past_key_values=DynamicCache(), max_new_tokens=2)


def test_ids_that_the_model_does_not_have_are_refused(fast: Any) -> None:
    for ids in (torch.full((1, 3), 99), np.full((1, 3), 99)):
        with pytest.raises(InputError, match="99"):
            fast.generate(ids, max_new_tokens=2)
    for ids in (torch.zeros(1, 0, dtype=torch.long), np.zeros((1, 0), np.int64)):
        with pytest.raises(InputError, match="there is no token"):
            fast.generate(ids, max_new_tokens=2)
    for wrong in (np.full((1, 3), 5.7), [[5.7, 6.0]]):
        with pytest.raises(InputError, match="'input_ids': expected dtype int64, got dtype float64"):
            fast.generate(wrong, max_new_tokens=2)
    with pytest.raises(InputError, match="a mask of 0 and 1"):
        fast.generate(np.full((1, 3), 5), attention_mask=np.full((1, 3), 0.5), max_new_tokens=2)
    with pytest.raises(InputError, match=r"'inputs_embeds', argument \d of its forward, was not exported"):
        fast.generate(inputs_embeds=torch.randn(1, 5, 32), max_new_tokens=2)


def test_threads_generate_side_by_side(fast: Any) -> None:
    want = [fast.generate(IDS[row : row + 1], do_sample=False, max_new_tokens=12) for row in range(3)]
    got: list[Any] = [None] * 3

    def work(row: int) -> None:
        got[row] = fast.generate(IDS[row : row + 1], do_sample=False, max_new_tokens=12)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


_CHILD = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers")))
import numpy as np
from optimum_core import load
print(load(sys.argv[1]).generate(np.array(eval(sys.argv[2])), max_new_tokens=8, do_sample=False).tolist())
"""


def test_a_saved_model_generates_without_torch(fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "decoder").iterdir()) == [
        "openvino_model.bin",
        "openvino_model.xml",
    ]
    want = decoder("llama").generate(IDS[:1], do_sample=False, max_new_tokens=8, pad_token_id=0)
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "out"), str(IDS[:1].tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    assert eval(done.stdout) == want.tolist()
    assert torch.equal(load(tmp_path / "out").generate(IDS[:1], do_sample=False, max_new_tokens=8), want)


def test_a_pipeline_writes_what_it_writes_with_eager(fast: Any, tokenizer: Any) -> None:
    from transformers import pipeline

    texts = ["a story of", "so", "many words here"]
    want, got = (
        pipeline("text-generation", model=model, tokenizer=tokenizer)(
            texts, max_new_tokens=8, do_sample=False, batch_size=2
        )
        for model in (decoder("llama"), fast)
    )
    assert got == want


def test_the_command_writes_the_answer(fast: Any, tokenizer: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    ids = tokenizer("so many:", return_tensors="pt").input_ids
    want = decoder("llama").generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)[0, ids.shape[1] :]
    command = [sys.executable, "-m", "optimum_core.cli", "generate", str(tmp_path / "out"), "so many"]
    done = subprocess.run([*command, "--max-new-tokens", "8"], capture_output=True, text=True, check=True, timeout=500)
    assert done.stdout == tokenizer.decode(want, skip_special_tokens=True) + "\n"


def test_the_report_states_tokens_a_second(fast: Any) -> None:
    chosen = fast.report.chosen
    assert fast.report.workload == ("1x8+4",)
    assert chosen.measurements[0].tokens == 4 and chosen.measurements[0].first > 0
    assert "1x8+4 tokens/s (first ms)" in fast.report.to_markdown()
    assert any("greedy text, 64 tokens" in case.case for case in chosen.fidelity.results)
