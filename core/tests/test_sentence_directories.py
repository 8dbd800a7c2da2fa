"""A directory of sentence-transformers is one model: its modules give what a plain reading of its files gives, and what
is not understood is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.artifact.embedding import EmbeddingSettings
from optimum_core.errors import SourceError
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.sentences.source import SentenceSource
from optimum_core.models.sources.source import DirectorySource, open_source
from sentence_directories import (
    NORMALIZE,
    Module,
    dense,
    pooling,
    tiny_transformer,
    write_directory,
)

#: Each mode by hand, of the token vectors of one text.
MODES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(dim=0).values,
    "mean": lambda tokens: tokens.mean(dim=0),
    "mean_sqrt_len_tokens": lambda tokens: tokens.sum(dim=0) / len(tokens) ** 0.5,
    "weightedmean": lambda tokens: (
        (tokens * (weights := torch.arange(1.0, len(tokens) + 1)[:, None])).sum(dim=0) / weights.sum()
    ),
    "lasttoken": lambda tokens: tokens[-1],
}
IDS = [[2, 5, 9, 7, 3], [2, 50, 3], [2, 8, 9, 10, 11, 12, 3]]


@pytest.fixture(scope="module")
def transformer() -> Any:
    return tiny_transformer()


def _padded(rows: list[list[int]], *, left: bool) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    ids = [gap + row if left else row + gap for row, gap in zip(rows, fill, strict=True)]
    mask = [
        [0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap)
        for row, gap in zip(rows, fill, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _eager(directory: Path, inputs: dict[str, torch.Tensor]) -> Any:
    with torch.no_grad():
        return open_source(directory).module()(**inputs)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_that_of_the_text_alone_whatever_the_padding(mode: str, transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling(mode), transformer=transformer)
    padded = _eager(directory, _padded(IDS, left=False))
    for row, ids in enumerate(IDS):
        alone = _eager(directory, {"input_ids": torch.tensor([ids])})
        want = MODES[mode](alone.token_embeddings[0])
        torch.testing.assert_close(alone.sentence_embedding[0], want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(padded.sentence_embedding[row], want, rtol=1e-4, atol=1e-4)
    on_the_left = _padded(IDS, left=True)
    found = _eager(directory, on_the_left)
    for row, mask in enumerate(on_the_left["attention_mask"]):
        want = MODES[mode](found.token_embeddings[row][mask.bool()])
        torch.testing.assert_close(found.sentence_embedding[row], want, rtol=1e-4, atol=1e-5)


def test_modes_lie_side_by_side_in_the_order_of_the_older_switches(transformer: Any, tmp_path: Path) -> None:
    older = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}
    module: Module = ("Pooling", {"word_embedding_dimension": 32, **older}, {})
    found = _eager(
        write_directory(tmp_path / "m", module, transformer=transformer), {"input_ids": torch.tensor(IDS[:1])}
    )
    tokens = found.token_embeddings[0]
    want = torch.cat([MODES["cls"](tokens), MODES["mean"](tokens)])
    torch.testing.assert_close(found.sentence_embedding[0], want, rtol=1e-4, atol=1e-5)


def test_further_modules_are_applied_in_order(transformer: Any, tmp_path: Path) -> None:
    stated, weights = dense(32, 8)
    norm = {"norm.weight": torch.arange(1.0, 9.0), "norm.bias": torch.ones(8)}
    layer: Module = ("LayerNorm", {"dimension": 8}, norm)
    modules: list[Module] = [pooling("mean"), ("Dense", stated, weights), layer, ("Dropout", {}, {}), NORMALIZE]
    found = _eager(
        write_directory(tmp_path / "m", *modules, transformer=transformer), {"input_ids": torch.tensor(IDS[:1])}
    )
    mean = found.token_embeddings[0].mean(dim=0)
    hidden = torch.tanh(weights["linear.weight"] @ mean + weights["linear.bias"])
    normed = torch.nn.functional.layer_norm(hidden, (8,), norm["norm.weight"], norm["norm.bias"])
    torch.testing.assert_close(found.sentence_embedding[0], normed / normed.norm(), rtol=1e-4, atol=1e-5)


def test_a_residual_dense_layer_and_one_of_the_tokens(transformer: Any, tmp_path: Path) -> None:
    of_tokens, first = dense(32, 16, module_input_name="token_embeddings", activation_function="torch.nn.ReLU")
    stated, second = dense(16, 4, use_residual=True, activation_function="torch.nn.modules.linear.Identity")
    second["residual.weight"] = torch.randn(4, 16)
    modules: list[Module] = [("Dense", of_tokens, first), pooling("mean"), ("Dense", stated, second)]
    found = _eager(
        write_directory(tmp_path / "m", *modules, transformer=transformer), {"input_ids": torch.tensor(IDS[:1])}
    )
    assert found.token_embeddings.shape == (1, 5, 16)
    assert float(found.token_embeddings.min()) == 0.0
    mean = found.token_embeddings[0].mean(dim=0)
    want = second["linear.weight"] @ mean + second["linear.bias"] + second["residual.weight"] @ mean
    torch.testing.assert_close(found.sentence_embedding[0], want, rtol=1e-4, atol=1e-4)


def test_the_tokens_of_a_prompt_are_left_out_where_the_pooling_says_so(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean", include_prompt=False), transformer=transformer)
    source = open_source(directory)
    signature = describe(source.module(), name="m", processor=source.processor)
    assert [(spec.name, spec.default) for spec in signature.inputs if spec.name == "pooling_mask"] == [
        ("pooling_mask", "ones")
    ]
    drawn = signature.draw(Case(name="any", padding="none"))
    assert (drawn["pooling_mask"] != drawn["attention_mask"]).any(), "else a graph without it would pass"
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    found = _eager(directory, {"input_ids": torch.tensor(IDS[:1]), "pooling_mask": mask})
    want = found.token_embeddings[0, 2:].mean(dim=0)
    torch.testing.assert_close(found.sentence_embedding[0], want, rtol=1e-4, atol=1e-5)


def test_an_older_directory_keeps_its_transformer_in_a_folder(transformer: Any, tmp_path: Path) -> None:
    at_the_top = write_directory(tmp_path / "a", pooling("mean"), transformer=transformer)
    settings, lengths = {"prompts": {"query": "w5 "}}, {"max_seq_length": 12, "do_lower_case": True}
    inside = write_directory(
        tmp_path / "b", pooling("mean"), transformer=transformer, folder="0_Transformer", settings=settings,
        lengths=lengths,
    )  # fmt: skip
    inputs = {"input_ids": torch.tensor(IDS[:1])}
    assert torch.equal(_eager(at_the_top, inputs).sentence_embedding, _eager(inside, inputs).sentence_embedding)
    names = open_source(inside).companions()
    assert {"config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= set(names)
    assert not [name for name in names if "0_Transformer" in name]
    source = open_source(inside)
    assert isinstance(source, SentenceSource)
    assert (source.settings.max_seq_length, source.settings.do_lower_case, dict(source.settings.prompts)) == (
        12, True, {"query": "w5 "},
    )  # fmt: skip
    assert source.processor.model_max_length == 12


def test_a_checkpoint_with_a_head_gives_its_body(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    body = tiny_transformer()
    whole = BertForMaskedLM(body.config).eval()
    whole.bert.load_state_dict(body.state_dict())
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=whole)
    inputs = {"input_ids": torch.tensor(IDS[:1])}
    with torch.no_grad():
        want = body(**inputs).last_hidden_state
    torch.testing.assert_close(_eager(directory, inputs).token_embeddings, want)


def test_an_encoder_that_was_saved_without_its_decoder(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    body = T5EncoderModel(T5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)).eval()
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=body)
    inputs = {"input_ids": torch.tensor(IDS[:1])}
    with torch.no_grad():
        want = body(**inputs).last_hidden_state
    torch.testing.assert_close(_eager(directory, inputs).token_embeddings, want)


def test_fp16_weights_are_read_in_fp32(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=tiny_transformer().half())
    source = open_source(directory)
    assert source.held_in == "fp16"
    assert {tensor.dtype for tensor in source.module().state_dict().values()} == {torch.float32}


def test_one_changed_weight_of_a_module_changes_the_fingerprint(transformer: Any, tmp_path: Path) -> None:
    stated, weights = dense(32, 8)
    one = write_directory(tmp_path / "a", pooling("mean"), ("Dense", stated, weights), transformer=transformer)
    two = write_directory(
        tmp_path / "b", pooling("mean"), ("Dense", stated, {**weights, "linear.bias": torch.zeros(8)}),
        transformer=transformer,
    )  # fmt: skip
    assert open_source(one).fingerprint != open_source(two).fingerprint


def test_the_transformer_alone_is_had_by_its_task(transformer: Any, tmp_path: Path) -> None:
    from transformers import BertModel

    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=BertModel(transformer.config))
    source = open_source(directory, task="feature-extraction")
    assert type(source) is DirectorySource
    assert "modules.json" not in source.companions(), "else what is saved would be taken for a sentence encoder"
    assert type(source.module()).__name__ == "BertModel"


def test_what_is_saved_is_read_again(transformer: Any, tmp_path: Path) -> None:
    modules: list[Module] = [pooling("cls", "lasttoken"), ("Dense", *dense(64, 8)), NORMALIZE]
    directory = write_directory(tmp_path / "m", *modules, transformer=transformer)
    module = open_source(directory).module()
    module.save_pretrained(tmp_path / "again")
    again = open_source(tmp_path / "again").module()
    inputs = _padded(IDS, left=True)
    with torch.no_grad():
        assert torch.equal(module(**inputs).sentence_embedding, again(**inputs).sentence_embedding)


def _listed(directory: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = directory / "modules.json"
    listed = json.loads(file.read_text())
    change(listed)
    file.write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda listed: listed[1].update(type="sentence_transformers.models.LSTM"), "module LSTM is unknown here"),
        (lambda listed: listed[1].update(type="my_code.Pooling"), "'my_code.Pooling' is code of its own"),
        (lambda listed: listed[0].update(type="sentence_transformers.models.StaticEmbedding"), "and no Transformer"),
        (lambda listed: listed.pop(), "none of its modules is a Pooling"),
        (lambda listed: listed[1].update(path="../elsewhere"), "outside the directory"),
        (lambda listed: listed[1].pop("type"), "is no list of modules"),
        (lambda listed: listed.clear(), "names no module"),
    ],
    ids=["unknown", "code", "static", "no pooling", "outside", "broken", "empty"],
)
def test_a_list_of_modules_that_is_not_understood(
    change: Callable[[list[dict[str, Any]]], Any], told: str, transformer: Any, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer)
    _listed(directory, change)
    with pytest.raises(SourceError, match=told):
        open_source(directory)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (pooling("median"), "pooling mode 'median' is unknown"),
        (pooling("mean", skip_first=2), "unknown setting 'skip_first'"),
        (("Dense", dense(32, 8, activation_function="os.system")[0], {}), "'os.system' is none of torch.nn"),
        (("Dense", dense(32, 8)[0], {"linear.weight": torch.zeros(8, 31)}), "do not fit"),
        (("Dense", {"in_features": 32}, {}), "lacks the setting 'out_features'"),
    ],
    ids=["mode", "setting", "activation", "weights", "missing"],
)
def test_a_module_that_is_not_understood(module: Module, told: str, transformer: Any, tmp_path: Path) -> None:
    modules = [module] if module[0] == "Pooling" else [pooling("mean"), module]
    directory = write_directory(tmp_path / "m", *modules, transformer=transformer)
    with pytest.raises(SourceError, match=told):
        open_source(directory).module()


def test_a_pooling_without_its_folder_is_no_mean(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("cls"), transformer=transformer)
    shutil.rmtree(next(directory.glob("*_Pooling")))
    with pytest.raises(SourceError, match="settings of its module Pooling are not in"):
        open_source(directory).module()


@pytest.mark.parametrize(
    ("settings", "lengths", "told"),
    [
        ({"model_type": "SparseEncoder"}, {}, "it is a SparseEncoder"),
        ({}, {"query_expansion": {"length": 32}}, "the setting 'query_expansion'"),
        ({}, {"model_args": {"num_hidden_layers": 1}}, "loaded with 'num_hidden_layers'"),
        (
            {},
            {"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}},
            "by 'get_text_features'",
        ),
    ],
    ids=["sparse", "expansion", "arguments", "method"],
)
def test_settings_that_are_not_understood(
    settings: dict[str, Any], lengths: dict[str, Any], told: str, transformer: Any, tmp_path: Path
) -> None:
    directory = write_directory(
        tmp_path / "m", pooling("mean"), transformer=transformer, settings=settings, lengths=lengths
    )
    with pytest.raises(SourceError, match=told):
        open_source(directory)


def test_settings_are_written_as_they_are_read(tmp_path: Path) -> None:
    settings = EmbeddingSettings(
        prompts={"query": "q: "}, default_prompt_name="query", max_seq_length=7, do_lower_case=True,
        similarity_fn_name="dot", truncate_dim=4, activation_fn="torch.nn.Identity",
    )  # fmt: skip
    settings.write(tmp_path)
    assert EmbeddingSettings.read(tmp_path) == settings
    assert EmbeddingSettings.read(tmp_path / "absent") == EmbeddingSettings()


def test_a_row_without_tokens_gives_zeros_and_no_nan(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean", "lasttoken"), NORMALIZE, transformer=transformer)
    found = _eager(
        directory, {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.zeros(1, 2, dtype=torch.int64)}
    )
    assert np.array_equal(found.sentence_embedding.numpy(), np.zeros((1, 64), np.float32))
