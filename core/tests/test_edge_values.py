"""Values at edges: which are compared, what counts as eager's answer, and what rounding or order alone decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CanineConfig,
    CanineModel,
    PatchTSTConfig,
    PatchTSTModel,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from formula import MaskedFormula
from optimum_core.models.eager.calls import eager_outputs, is_plain
from optimum_core.models.eager.rounding_noise import _Noise, outputs_with_noise
from optimum_core.models.exporting.rewriting.edges import EdgesWrittenOut
from optimum_core.models.signatures.signature import describe
from optimum_core.types import Fidelity
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.bound_cases import ALL_VALUES
from optimum_core.verify.edge_value_cases import HALVES, LONG_HALVES, ONE_SIGN
from optimum_core.verify.large_value_cases import LARGE
from optimum_core.verify.reference import reference_cases

SAMPLES = {
    "x": torch.linspace(-2, 2, 24).reshape(3, 8)[:, [3, 0, 6, 1, 7, 4, 2, 5]],
    "keep": torch.tensor([[1, 0, 1]]).bool(),
}


def _cases(module: Any, samples: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, ReferenceCase]]:
    signature = describe(module, name="module", samples=samples)
    return signature, {case.name: case for case in reference_cases(module, signature)}


def _compared(function: Callable[..., Any], other: Callable[..., Any]) -> Fidelity:
    signature, cases = _cases(MaskedFormula(function).eval(), SAMPLES)
    exported = MaskedFormula(other).eval()
    run = lambda inputs: eager_outputs(exported, inputs)  # noqa: E731
    return verify(run, tuple(cases.values()), signature.outputs, precision="fp32")


def _wrong(fidelity: Fidelity) -> set[str]:
    return {item.case for item in fidelity.results if not item.passed}


def _with_keep(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, keep: function(x) + 0 * keep.sum()


def test_nothing_but_zeros_in_place_of_nan() -> None:
    def mean(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return x.mean() * keep.sum() / keep.sum()

    fidelity = _compared(mean, lambda x, keep: mean(x, keep).nan_to_num())
    assert _wrong(fidelity) == {"keep all off"}
    assert _compared(mean, mean).passed


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (torch.round, lambda x: (x + 0.5).floor()),
        (lambda x: torch.atan2(x, -torch.ones_like(x)), lambda x: (-x).atan() + torch.pi * torch.where(x > 0, 1, -1)),
        (lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-9), lambda x: x / (x * x).mean(-1, True).sqrt()),
    ],
)
def test_zeros_and_halves_are_exact(function: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert HALVES in _wrong(_compared(_with_keep(function), _with_keep(other)))


def test_one_sign_alone() -> None:
    def chosen(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return x[x > 0].mean() + 0 * keep.sum()

    fidelity = _compared(chosen, lambda x, keep: chosen(x, keep).nan_to_num())
    assert ONE_SIGN[-1] in _wrong(fidelity)


class Cut(torch.nn.Module):
    """Rows as long as the longest of them; or, once exported, as long as in the samples."""

    def __init__(self, exported: int | None = None) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return x[:, : self.exported or int(lengths.max())]


def test_whole_numbers_end_elsewhere_than_in_the_samples() -> None:
    signature, cases = _cases(Cut().eval(), {"x": torch.randn(4, 6, 3), "lengths": torch.tensor([6, 3, 4, 6])})
    exported = Cut(6).eval()
    found = verify(
        lambda inputs: eager_outputs(exported, inputs), tuple(cases.values()), signature.outputs, precision="fp32"
    )
    assert {"lengths all at the least", "lengths below the greatest"} <= _wrong(found)


def test_flags_of_rows_are_all_off_in_a_model_of_a_library() -> None:
    backbone = VitPoseBackboneConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=[16, 16], patch_size=[8, 8],
        num_experts=2, part_features=4, out_indices=[1],
    )  # fmt: skip
    module = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=2)).eval()
    samples = {"pixel_values": torch.randn(2, 3, 16, 16), "dataset_index": torch.tensor([0, 1])}
    _, cases = _cases(module, samples)
    assert {"dataset_index all off", "dataset_index all on"} <= cases.keys()


class Cleared(torch.nn.Module):
    """Attention that clears what lies behind the padding where all padding is at the end, as torch's own does."""

    def __init__(self, *, clears: bool = True) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=clears)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> Any:
        return self.encoder(x, src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_at_the_end_of_rows_is_compared() -> None:
    torch.manual_seed(0)
    module = Cleared().eval()
    padding = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0]]).bool()
    signature, cases = _cases(module, {"x": torch.randn(2, 6, 8), "padding": padding})
    exported = Cleared(clears=False).eval()
    exported.load_state_dict(module.state_dict())
    run = lambda inputs: eager_outputs(exported, inputs)  # noqa: E731
    fidelity = verify(run, tuple(cases.values()), signature.outputs, precision="fp32")
    assert any(name.startswith("padding off at the beginning of rows") for name in _wrong(fidelity))


def test_whole_numbers_stay_within_their_bounds() -> None:
    _, cases = _cases(torch.nn.Embedding(8, 3).eval(), {"input": torch.tensor([[0, 7, 3]])})
    assert "input below the greatest" in cases
    assert (cases["input at its bound in half of each row"].inputs["input"][:, 1:] == 0).all()
    assert "input one beyond the greatest" not in cases


@pytest.mark.parametrize(
    "function",
    [lambda x: x.topk(3).indices, lambda x: x.argsort(-1), lambda x: x.max(-1).indices],
)
def test_order_among_equal_values_is_noted(function: Callable[..., Any]) -> None:
    def backwards(x: torch.Tensor) -> Any:
        return x.shape[-1] - 1 - function(x.flip(-1))

    fidelity = _compared(lambda x, keep: function(x) + 0 * keep.sum(), lambda x, keep: backwards(x) + 0 * keep.sum())
    assert fidelity.passed
    assert any("order among equal values" in note for note in fidelity.notes)


def test_order_among_equal_values_of_long_rows_is_noted() -> None:
    """Up to 16 values, torch keeps the order of equal ones; exports do at every length."""

    def placed(*, stable: bool) -> torch.nn.Module:
        def sums(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            order = x.sort(dim=1, stable=stable).indices
            return torch.zeros_like(x).scatter(1, order // 2, x) + 0 * keep.sum()

        return MaskedFormula(sums).eval()

    samples = {"x": torch.randn(2, 5, 6), "keep": torch.tensor([True, False])}
    signature, cases = _cases(placed(stable=False), samples)
    exported = placed(stable=True)
    found = verify(
        lambda inputs: eager_outputs(exported, inputs), tuple(cases.values()), signature.outputs, precision="fp32"
    )
    assert any(note.startswith(LONG_HALVES) and "order among equal values" in note for note in found.notes)


def test_a_stable_order_is_promised() -> None:
    x = torch.tensor([[1.0, 2, 2, 1], [0, 0, 0, 0]])
    stable = MaskedFormula(lambda x, keep: torch.sort(x, dim=-1, stable=True).indices).eval()
    keep = torch.ones(1, dtype=torch.bool)
    found = outputs_with_noise(stable, {"x": x, "keep": keep})["output"]
    np.testing.assert_array_equal(found, torch.sort(x, dim=-1, stable=True).indices)


def _otherwise(function: Callable[..., Any], x: torch.Tensor) -> np.ndarray[Any, Any]:
    module = MaskedFormula(_with_keep(function)).eval()
    found: np.ndarray[Any, Any] = outputs_with_noise(module, {"x": x, "keep": torch.ones(1, dtype=torch.bool)})[
        "output"
    ]
    return found


def _into(buffer: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    torch.exp(x, out=buffer)
    return buffer


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (lambda x: _into(torch.zeros_like(x), x), torch.exp),
        (
            lambda x: torch.max(x, dim=-1, out=(torch.empty(3), torch.empty(3, dtype=torch.long)))[1],
            lambda x: x.argmax(-1),
        ),
        (lambda x: x.clone().exp_(), torch.exp),
    ],
)
def test_operators_write_where_the_model_says(function: Callable[..., Any], want: Callable[..., Any]) -> None:
    np.testing.assert_allclose(_otherwise(function, SAMPLES["x"]), want(SAMPLES["x"]), rtol=1e-4)


@pytest.mark.parametrize("off", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_masks_are_no_rounding(off: float) -> None:
    def attended(x: torch.Tensor) -> torch.Tensor:
        return (torch.full_like(x, off) / 2).softmax(-1) @ x.T

    x = SAMPLES["x"]
    np.testing.assert_allclose(_otherwise(attended, x), attended(x), rtol=1e-4, atol=1e-5)


def test_a_row_without_rounding_is_compared() -> None:
    def made(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        wild = torch.cat((torch.sin(x[:1] * 1e9), x[1:]))
        return wild + 0 * keep.sum()

    signature, cases = _cases(MaskedFormula(made).eval(), SAMPLES)
    case = cases[HALVES]
    assert case.sensitive["output"].tolist() == [True, False, False]
    for row, passed in ((0, True), (1, False)):
        answer = case.outputs["output"].copy()
        answer[row] += 0.5
        run = lambda inputs, answer=answer: {"output": answer}  # noqa: E731
        assert verify(run, (case,), signature.outputs, precision="fp32").passed == passed


def test_large_weights_are_not_copied() -> None:
    module = torch.nn.Linear(512, 512).eval()
    with _Noise(module) as mode:
        weight = mode._change_for("addmm")(module.weight.t())
    assert weight.data_ptr() == module.weight.data_ptr()


def _edges(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([0.0, -0.0, 1, -1, 3, -2, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    return values[:, None].expand(9, 9).clone(), values[None, :].expand(9, 9).clone()


@pytest.mark.parametrize(
    ("first", "second"), [(torch.float32,) * 2, (torch.float64,) * 2, (torch.float32, torch.float64)]
)
def test_angles_as_eager_gives_them(first: torch.dtype, second: torch.dtype) -> None:
    y, x = _edges(first)[0], _edges(second)[1]
    with EdgesWrittenOut():
        found = torch.atan2(y, x)
    near = 1e-6 if first == torch.float32 and second == torch.float32 else 1e-15
    torch.testing.assert_close(found, torch.atan2(y, x), rtol=near, atol=near, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_norms_as_eager_gives_them(dtype: torch.dtype, eps: float | None) -> None:
    x = (torch.linspace(-1, 1, 24).reshape(3, 8) * 1e-3).to(dtype)
    with EdgesWrittenOut():
        found = torch.rms_norm(x, (8,), eps=eps)
    torch.testing.assert_close(found, torch.rms_norm(x, (8,), eps=eps))


@pytest.mark.parametrize(
    "mean",
    [
        lambda x: x.mean(),
        lambda x: x.mean([]),
        lambda x: x.mean(()),
        lambda x: x.mean(0, True),
        lambda x: x.mean(axis=0),
        lambda x: x.mean(0, keepdims=True),
        lambda x: x.mean([0, -1], keepdim=True),
        lambda x: torch.mean(x, 0, out=torch.empty(50, dtype=x.dtype)),
        lambda x: x.mean(0, dtype=torch.float32),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_means_of_what_is_kept(mean: Callable[..., Any], dtype: torch.dtype) -> None:
    x, keep = torch.full((4000, 50), 50.0, dtype=dtype), torch.arange(4000) % 7 > 0
    with EdgesWrittenOut():
        found = mean(x[keep])
    torch.testing.assert_close(found, mean(x[keep]))


def _attended(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(x[0, :, :6]).masked_fill(kept[None] == 0, -torch.inf)
    return torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_attention_with_a_mask_made_of_another_input() -> None:
    x, kept = torch.linspace(-1, 1, 48).reshape(1, 6, 8), torch.ones(6)
    with EdgesWrittenOut():
        traced = torch.jit.trace(_attended, (x, kept), check_trace=False)  # type: ignore[no-untyped-call]
        batched = torch.vmap(lambda one: _attended(one[None], kept))(torch.stack((x[0], x[0])))
        meta = _attended(x.to("meta"), kept.to("meta"))
    assert "aten::masked_fill" in str(traced.graph).split("scaled_dot_product_attention")[-1]
    torch.testing.assert_close(traced(x, 0 * kept), _attended(x, 0 * kept))
    torch.testing.assert_close(batched[0], _attended(x, kept))
    assert meta.shape == x.shape


def test_what_rounding_decides_is_no_case() -> None:
    def angle(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return torch.acos(torch.nn.functional.cosine_similarity(x, x, dim=-1)) + 0 * keep.sum()

    _, cases = _cases(MaskedFormula(angle).eval(), SAMPLES)
    assert HALVES not in cases


def test_ids_that_no_table_bounds_are_compared_at_any_size() -> None:
    config = CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, num_hash_buckets=64
    )
    _, cases = _cases(CanineModel(config).eval())
    found = cases[LARGE["i"]]
    assert found.inputs["input_ids"].max() > 2**40
    assert not found.sensitive


@pytest.mark.parametrize(("size", "compared"), [(40000, True), (99, False)])
def test_large_vocabularies_are_compared_to_their_end(size: int, compared: bool) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9, vocab_size=size)
    _, cases = _cases(BertModel(config).eval())
    assert (ALL_VALUES in cases) == compared
    if compared:
        assert cases[ALL_VALUES].large
        assert cases[ALL_VALUES].inputs["input_ids"].max() == size - 1
        assert max(case.inputs["input_ids"].max() for name, case in cases.items() if name != ALL_VALUES) < 32768


def test_time_series_of_any_size() -> None:
    config = PatchTSTConfig(
        num_input_channels=2, context_length=32, d_model=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8
    )
    _, cases = _cases(PatchTSTModel(config).eval())
    assert {LARGE["f"], HALVES} <= set(cases)
    assert not cases[HALVES].inputs["past_values"][-1].any()


def test_a_config_of_the_users_own_says_nothing_of_inputs() -> None:
    module = MaskedFormula(lambda x, keep: x + 0 * keep.sum()).eval()
    module.config = {"hidden": 8}  # type: ignore[assignment]
    assert is_plain(module)
    assert not is_plain(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)))
