"""Beside sentence-transformers itself: the same vectors and scores, from directories and from its objects."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import InputError, SourceError, UnavailableError, VerificationError
from optimum_core.models.sources.sentences.activations import FUNCTIONS
from optimum_core.models.sources.sentences.in_memory import SentenceObjectSource
from optimum_core.models.sources.sentences.source import SentenceSource
from optimum_core.models.sources.source import open_source
from optimum_core.runtime import ranking
from sentence_directories import (
    NORMALIZE,
    TEXTS,
    Module,
    dense,
    pooling,
    tiny_transformer,
    write_directory,
    write_tokenizer,
)

sentence_transformers = pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SETTINGS = {"prompts": {"query": "w5 w6 "}, "default_prompt_name": None, "similarity_fn_name": "dot"}
QUICK: dict[str, Any] = {"target": "ort", "level": "all", "shapes": ((1, 8),), "budget": 0}


@pytest.fixture(scope="module")
def transformer() -> Any:
    return tiny_transformer()


def _close(got: Any, want: Any) -> None:
    assert type(got) is type(want)
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("include", [True, False])
def test_its_modules_give_what_ours_give(side: str, include: bool, transformer: Any, tmp_path: Path) -> None:
    modules: list[Module] = [
        pooling(*MODES, include_prompt=include),
        ("Dense", *dense(6 * 32, 16)),
        ("LayerNorm", {"dimension": 16}, {"norm.weight": torch.arange(1.0, 17.0), "norm.bias": torch.ones(16)}),
        NORMALIZE,
    ]
    directory = write_directory(
        tmp_path / "m", *modules, transformer=transformer, settings=SETTINGS, lengths={"max_seq_length": 30},
        tokenizer={"padding_side": side},
    )  # fmt: skip
    original = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    features = original.preprocess(TEXTS, prompt="w5 w6 ")
    with torch.no_grad():
        want = original(dict(features))["sentence_embedding"]
    length = features["prompt_length"]
    inputs = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    if not include:
        inputs["pooling_mask"] = (inputs["attention_mask"].cumsum(dim=1) > length).long()
    with torch.no_grad():
        got = open_source(directory).module()(**inputs).sentence_embedding
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_reading_that_differs_is_an_error(transformer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer, settings=SETTINGS)
    source = open_source(directory)
    assert isinstance(source, SentenceSource)
    source.compare_with_original()
    assert "with 2 prompts equal those of sentence-transformers" in source.notes[-1]
    other = open_source(directory)
    assert isinstance(other, SentenceSource)
    head = other._module.heads[0]
    monkeypatch.setattr(head, "modes", ("max",))
    with pytest.raises(VerificationError, match=r"differs by .* from that of sentence-transformers"):
        other.compare_with_original()


@pytest.fixture(scope="module")
def original(transformer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    modules = (pooling("mean", include_prompt=False), ("Dense", *dense(32, 16)), NORMALIZE)
    directory = write_directory(
        tmp_path_factory.mktemp("m") / "encoder", *modules, transformer=transformer, settings=SETTINGS,
        lengths={"max_seq_length": 30},
    )  # fmt: skip
    return sentence_transformers.SentenceTransformer(str(directory), device="cpu")


@pytest.fixture(scope="module")
def fast(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return accelerate(original, **QUICK, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"batch_size": 2},
        {"prompt": "w5 w6 "},
        {"prompt_name": "query"},
        {"normalize_embeddings": True, "truncate_dim": 5},
        {"convert_to_tensor": True},
        {"precision": "ubinary"},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_its_encode_gives_what_the_original_gives(arguments: dict[str, Any], original: Any, fast: Any) -> None:
    assert isinstance(fast, sentence_transformers.SentenceTransformer)
    _close(fast.encode(TEXTS, **arguments), original.encode(TEXTS, **arguments))


@pytest.mark.parametrize("texts", [TEXTS[0], [], np.array(TEXTS), tuple(TEXTS)], ids=["one", "none", "array", "tuple"])
def test_texts_in_any_form(texts: Any, original: Any, fast: Any) -> None:
    _close(fast.encode(texts), original.encode(texts))


@pytest.mark.parametrize("arguments", [{"output_value": "token_embeddings"}, {"convert_to_numpy": False}], ids=str)
def test_lists_of_tensors(arguments: dict[str, Any], original: Any, fast: Any) -> None:
    for got, want in zip(fast.encode(TEXTS, **arguments), original.encode(TEXTS, **arguments), strict=True):
        _close(got, want)


def test_it_is_the_accelerated_model_that_runs(fast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = fast.accelerated._run

    def counted(inputs: Any) -> Any:
        calls.append(inputs)
        return run(inputs)

    monkeypatch.setattr(fast.accelerated, "_run", counted)
    fast.encode(TEXTS, batch_size=32)
    assert len(calls) == 1
    fast.encode(TEXTS, output_value="token_embeddings")
    fast(fast.preprocess(TEXTS))
    assert len(calls) == 3
    assert not list(fast[0].parameters()), "it holds no second copy of the weights"


def test_what_it_says_of_itself_is_the_originals(original: Any, fast: Any) -> None:
    assert fast.max_seq_length == original.max_seq_length == 30
    assert fast.get_embedding_dimension() == original.get_embedding_dimension() == 16
    assert fast.similarity_fn_name == "dot"
    assert fast.device == torch.device("cpu")
    assert fast.prompts == original.prompts
    assert fast.report.candidates == fast.accelerated.report.candidates != ()
    _close(fast.similarity(fast.encode(TEXTS), fast.encode(TEXTS)), original.similarity(*[original.encode(TEXTS)] * 2))
    with pytest.raises(ValueError, match="'other' not found"):
        fast.encode(TEXTS, prompt_name="other")
    with pytest.raises(UnavailableError, match="pooling is fixed"):
        fast.set_pooling_include_prompt(True)


def test_settings_changed_later_count(original: Any, fast: Any) -> None:
    changed, theirs = copy.deepcopy(fast), copy.deepcopy(original)
    for model in (changed, theirs):
        model.max_seq_length = 6
        model.prompts["short"] = "w9 "
        model.truncate_dim = 7
    _close(changed.encode(TEXTS, prompt_name="short"), theirs.encode(TEXTS, prompt_name="short"))
    assert fast.encode(TEXTS).shape == (len(TEXTS), 16)


def test_it_goes_to_other_processes(original: Any, fast: Any) -> None:
    again = pickle.loads(pickle.dumps(fast))
    assert isinstance(again, sentence_transformers.SentenceTransformer)
    _close(again.encode(TEXTS), original.encode(TEXTS))
    assert pickle.loads(pickle.dumps(type(fast))) is type(fast), "a pool of processes pickles the class alone"


def test_saved_it_is_an_artifact_with_its_settings(original: Any, fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(str(tmp_path / "out"))
    with load(tmp_path / "out") as loaded:
        _close(loaded.encode(TEXTS, prompt_name="query"), original.encode(TEXTS, prompt_name="query"))
        assert (loaded.max_seq_length, loaded.similarity_fn_name) == (30, "dot")


def test_accelerated_twice(fast: Any) -> None:
    with pytest.raises(SourceError, match="accelerated already"):
        accelerate(fast)


def test_the_original_is_not_changed(original: Any, fast: Any) -> None:
    assert type(original) is sentence_transformers.SentenceTransformer
    assert sum(tensor.numel() for tensor in original.parameters()) > 1000
    assert not hasattr(original, "accelerated")


def test_a_directory_that_it_does_not_open_or_encode_with_says_so(transformer: Any, tmp_path: Path) -> None:
    settings = {"prompts": {}, "default_prompt_name": "other"}
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer, settings=settings)
    with pytest.raises(SourceError, match=r"itself does not open it: ValueError(.|\n)*mend its files"):
        accelerate(directory, target="ort", budget=0)
    far = write_directory(tmp_path / "n", pooling("mean"), transformer=transformer, lengths={"max_seq_length": 9000})
    with pytest.raises(SourceError, match="itself does not encode with it: RuntimeError"):
        accelerate(far, target="ort", budget=0)


def test_a_module_of_another_kind_is_refused(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer)
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    model.append(torch.nn.Linear(32, 8))
    with pytest.raises(SourceError, match="its module Linear is unknown here"):
        accelerate(model)


def test_an_activation_with_settings_is_refused(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), ("Dense", *dense(32, 8)), transformer=transformer)
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    model[2].activation_function = torch.nn.GELU(approximate="tanh")
    with pytest.raises(SourceError, match=r"activation GELU\(approximate='tanh'\) has settings of its own"):
        accelerate(model)
    model[2].activation_function = torch.nn.Tanh()
    assert type(open_source(model).module()).__name__ == "SentenceEncoder"


def test_one_in_16_bits_is_compared_in_32(transformer: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer)
    source = open_source(sentence_transformers.SentenceTransformer(str(directory), device="cpu").bfloat16())
    assert isinstance(source, SentenceObjectSource)
    source.module().eval()
    source.compare_with_original()
    assert "equal those of sentence-transformers" in source.notes[-1]


def test_what_is_no_transformer_says_what_to_do_instead(transformer: Any, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    directory = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer)
    words = sentence_transformers.SentenceTransformer(str(directory), device="cpu").tokenizer.backend_tokenizer
    static = sentence_transformers.SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=8)])
    static.save_pretrained(str(tmp_path / "static"))
    for given in (static, tmp_path / "static"):
        with pytest.raises(SourceError, match=r"StaticEmbedding(.|\n)*use it as it is"):
            accelerate(given)


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A cross-encoder, and the same accelerated."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_transformer().config
    config.num_labels = 1
    place = tmp_path_factory.mktemp("cross") / "model"
    BertForSequenceClassification(config).eval().save_pretrained(place)
    write_tokenizer(place)
    theirs = sentence_transformers.CrossEncoder(str(place), device="cpu")
    yield theirs, accelerate(theirs, **QUICK, cache_dir=tmp_path_factory.mktemp("cache"))


def test_a_cross_encoder_scores_and_ranks_as_the_original(cross: tuple[Any, Any], tmp_path: Path) -> None:
    theirs, ours = cross
    assert isinstance(ours, sentence_transformers.CrossEncoder)
    pairs = [("w5 w6", text) for text in TEXTS]
    _close(ours.predict(pairs), theirs.predict(pairs))
    _close(ours.predict(pairs[0]), theirs.predict(pairs[0]))
    _close(
        ours.predict(pairs, activation_fn=torch.nn.Identity()), theirs.predict(pairs, activation_fn=torch.nn.Identity())
    )
    _close(ours.predict(pairs, convert_to_tensor=True), theirs.predict(pairs, convert_to_tensor=True))
    mine, want = ours.rank("w5 w6", TEXTS, return_documents=True), theirs.rank("w5 w6", TEXTS, return_documents=True)
    assert [(item["corpus_id"], item["text"]) for item in mine] == [(item["corpus_id"], item["text"]) for item in want]
    ours.save_pretrained(str(tmp_path / "out"))
    with load(tmp_path / "out") as loaded:
        assert [item["corpus_id"] for item in loaded.rank("w5 w6", TEXTS)] == [item["corpus_id"] for item in want]


def test_activations_of_cross_encoders_are_those_of_torch() -> None:
    logits = np.linspace(-9, 9, 14, dtype=np.float32).reshape(7, 2)
    for name in (*FUNCTIONS, "Mish"):
        made = getattr(torch.nn, name)()
        found = ranking._activated(logits, f"torch.nn.modules.activation.{name}", "model")
        np.testing.assert_allclose(found, made(torch.from_numpy(logits)).numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        assert found.dtype == np.float32


def test_an_activation_that_no_file_keeps_is_asked_for_after_loading(cross: tuple[Any, Any], tmp_path: Path) -> None:
    theirs = copy.deepcopy(cross[0])
    theirs.activation_fn = torch.nn.Softplus(beta=3)  # by its path alone it would be another
    ours, pairs = accelerate(theirs, **QUICK, cache_dir=tmp_path / "cache"), [("w5 w6", text) for text in TEXTS]
    _close(ours.predict(pairs), theirs.predict(pairs))
    ours.save_pretrained(str(tmp_path / "out"))
    with load(tmp_path / "out") as loaded:
        with pytest.raises(InputError, match=r"Softplus\(beta=3(.|\n)*activation_fn="):
            loaded.predict(pairs)
        _close(loaded.predict(pairs, activation_fn=theirs.activation_fn), theirs.predict(pairs))


def test_an_activation_with_code_of_its_own_is_refused_early(cross: tuple[Any, Any], tmp_path: Path) -> None:
    cross[0].save_pretrained(str(tmp_path / "cross"))
    config = tmp_path / "cross" / "config.json"
    stated = {**json.loads(config.read_text()), "sbert_ce_default_activation_function": "mine.Squared"}
    stated.pop("sentence_transformers", None)
    for name in ("config_sentence_transformers.json", "modules.json"):
        (tmp_path / "cross" / name).unlink(missing_ok=True)
    config.write_text(json.dumps(stated))  # as versions before 5 wrote it
    with pytest.raises(SourceError, match=r"mine\.Squared. is none of torch"):
        open_source(tmp_path / "cross")


def test_a_directory_that_it_saved_is_read(cross: tuple[Any, Any], original: Any, tmp_path: Path) -> None:
    original.save_pretrained(str(tmp_path / "encoder"))
    source = open_source(tmp_path / "encoder")
    assert isinstance(source, SentenceSource)
    source.compare_with_original()
    cross[0].save_pretrained(str(tmp_path / "cross"))
    assert not isinstance(open_source(tmp_path / "cross"), SentenceSource), "it is a classifier"


def test_a_tokenizer_without_marks_makes_nothing_of_an_empty_text(transformer: Any, tmp_path: Path) -> None:
    place = write_directory(tmp_path / "m", pooling("mean"), transformer=transformer)
    tokenizer = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    (place / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}), encoding="utf-8")
    original = sentence_transformers.SentenceTransformer(str(place), device="cpu")
    fast = accelerate(place, **QUICK)
    _close(fast.encode(["w5 w6", "w7"]), original.encode(["w5 w6", "w7"]))
    assert fast.report is not None and any("equal those of sentence-transformers" in note for note in fast.report.notes)
