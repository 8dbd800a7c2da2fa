"""Modules with weights behind a graph that is the transformer of a sentence encoder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from optimum_core import accelerate, load
from optimum_core.errors import ArtifactError, InputError, SourceError
from optimum_core.models.sources.sentences.activations import FUNCTIONS
from optimum_core.models.sources.sentences.behind import read_behind
from optimum_core.models.sources.sentences.heads import Features, read_head
from optimum_core.runtime.accepting import accept
from optimum_core.runtime.pooled import applied
from sentence_directories import NORMALIZE, Module, dense, pooling, write_directory

_TEXTS = ["w5 w9", "w7", "w50 w51 w52 w53 w54"]
_ACTIVATION = "torch.nn.modules.activation."


def _norm(size: int) -> Module:
    weights = {"norm.weight": torch.linspace(0.5, 2, size), "norm.bias": torch.linspace(-1, 1, size)}
    return "LayerNorm", {"dimension": size}, weights


def _dense(inputs: int, outputs: int, *, residual: bool = False, **stated: Any) -> Module:
    settings, weights = dense(inputs, outputs, **stated)
    if residual:
        settings["use_residual"] = True
        weights |= {"residual.weight": weights["linear.weight"].flip(0)} if inputs != outputs else {}
    return "Dense", settings, weights


_TOKENS: dict[str, Any] = {"module_input_name": "token_embeddings"}
_CHAINS: dict[str, list[Module]] = {
    "dense": [pooling("mean"), _dense(32, 8), NORMALIZE],
    "two of them": [pooling("cls", "mean"), _dense(64, 16, residual=True), _dense(16, 16, residual=True), _norm(16)],
    "of tokens": [_dense(32, 12, **_TOKENS), pooling("max")],
    "by another name": [pooling("mean"), _dense(32, 8, module_output_name="other"), NORMALIZE],
}  # fmt: skip


def _by_torch(directory: Path, tokens: torch.Tensor) -> Features:
    """The modules of a directory as torch computes them, of one text."""
    features = {"token_embeddings": tokens[None], "attention_mask": torch.ones(1, len(tokens), dtype=torch.int64)}
    for item in json.loads((directory / "modules.json").read_text())[1:]:
        features = read_head(item["type"].rpartition(".")[2], directory / item["path"], "m")(features)
    return features


@pytest.mark.parametrize("chain", _CHAINS)
def test_modules_in_numpy_give_what_torch_gives(chain: str, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", *_CHAINS[chain])
    tokens = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = _by_torch(directory, tokens)
    found = applied(read_behind(directory, "m"), tokens.numpy())
    for name in ("sentence_embedding", "token_embeddings"):
        np.testing.assert_allclose(found[name], want[name][0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*FUNCTIONS, "Mish"])
def test_activations_in_numpy_are_those_of_torch(name: str, tmp_path: Path) -> None:
    """`Mish` stands for those that torch computes."""
    module = _dense(32, 8, activation_function=f"{_ACTIVATION}{name}")
    directory = write_directory(tmp_path / "m", pooling("mean"), module)
    tokens = 3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = _by_torch(directory, tokens)["sentence_embedding"][0].numpy()
    found = applied(read_behind(directory, "m"), tokens.numpy())["sentence_embedding"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F64"])
def test_weights_in_other_types(kind: str, tmp_path: Path) -> None:
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}[kind]
    _, stated, weights = _dense(32, 8)
    rounded = {name: tensor.to(dtype) for name, tensor in weights.items()}
    directory = write_directory(tmp_path / "m", pooling("mean"), ("Dense", stated, rounded))
    layer = read_behind(directory, "m").modules[1]
    assert hasattr(layer, "weight")
    np.testing.assert_array_equal(layer.weight, rounded["linear.weight"].float().numpy())


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer of these directories alone, in ONNX."""
    place = tmp_path_factory.mktemp("graph")
    whole = write_directory(place / "m", pooling("mean"))
    accelerate(whole, target="ort", budget=0, cache_dir=place / "cache").save_pretrained(place / "g", layout="optimum")
    return place / "g" / "model.onnx"


def _convert(directory: Path, graph: Path) -> None:
    """Lay a directory out as sentence-transformers does with its backend "onnx"."""
    (directory / "onnx").mkdir()
    shutil.copyfile(graph, directory / "onnx" / "model.onnx")
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize("pickled", [False, True])
def test_a_converted_directory_with_dense_layers_encodes(pickled: bool, graph: Path, tmp_path: Path) -> None:
    """The directory as one model, all in one graph, is what the same directory around a converted graph is held to."""
    chain = [pooling("mean"), _dense(32, 8), NORMALIZE]
    whole = write_directory(tmp_path / "whole", *chain)
    want = accelerate(whole, target="ort", budget=0, cache_dir=tmp_path / "cache").encode(_TEXTS)
    theirs = write_directory(tmp_path / "theirs", *chain)
    _convert(theirs, graph)
    if pickled:
        (theirs / "2_Dense" / "model.safetensors").unlink()
        torch.save(chain[1][2], theirs / "2_Dense" / "pytorch_model.bin")
    fast = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(fast.encode(_TEXTS), want, rtol=1e-3, atol=1e-5)
    assert fast.embeds and fast.get_embedding_dimension() == 8
    fast.save_pretrained(tmp_path / "own")
    assert not list((tmp_path / "own").rglob("*.bin"))
    np.testing.assert_array_equal(load(tmp_path / "own").encode(_TEXTS), fast.encode(_TEXTS))
    fast.save_pretrained(tmp_path / "again", layout="optimum")
    np.testing.assert_allclose(load(tmp_path / "again").encode(_TEXTS), want, rtol=1e-3, atol=1e-5)


def test_modules_are_applied_once_for_each_text(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once more at every call, to find out how wide the vectors are."""
    theirs = write_directory(tmp_path / "theirs", pooling("mean"), _dense(32, 8))
    _convert(theirs, graph)
    fast = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache")
    want = fast.encode(_TEXTS)
    texts = []

    def counted(*given: Any) -> dict[str, Any]:
        texts.append(given)
        return applied(*given)

    monkeypatch.setattr("optimum_core.runtime.pooled.applied", counted)
    np.testing.assert_array_equal(fast.encode(_TEXTS), want)
    assert len(texts) == len(_TEXTS)


def test_other_weights_are_another_model(graph: Path, tmp_path: Path) -> None:
    theirs = write_directory(tmp_path / "theirs", pooling("mean"), _dense(32, 8))
    _convert(theirs, graph)
    first = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache").encode(_TEXTS)
    _, weights = dense(32, 8)
    save_file({name: -tensor for name, tensor in weights.items()}, theirs / "2_Dense" / "model.safetensors")
    second = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache").encode(_TEXTS)
    np.testing.assert_allclose(second, -first, rtol=1e-4, atol=1e-6)  # tanh is odd


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (("Dense", dense(32, 8)[0], {}), "are not in"),
        (("Dense", dense(32, 9)[0], dense(32, 8)[1]), r"of the shape \[8, 32\], and have to be \[9, 32\]"),
        (("Dense", dense(32, 8)[0], {**dense(32, 8)[1], "more": torch.ones(1)}), "'more', unknown here"),
        (_dense(32, 8, module_input_name="nothing"), "takes 'nothing', which none before it gives"),
        (_dense(32, 8, activation_function="my.Own"), "none of torch.nn"),
    ],
)
def test_modules_that_cannot_be_read_are_refused(module: Module, told: str, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), module)
    with pytest.raises(SourceError, match=told):
        read_behind(directory, "m")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", pooling("mean"), _dense(32, 8))
    file = directory / "2_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(SourceError, match="cannot be read"):
        read_behind(directory, "m")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"model\.safetensors is a pointer of git-lfs.*\n.*git lfs pull.*2_Dense"):
        read_behind(directory, "m")


def test_a_pickle_that_cannot_be_read_leaves_the_graph_as_it_is(graph: Path, tmp_path: Path) -> None:
    theirs = write_directory(tmp_path / "theirs", pooling("mean"), _dense(32, 8))
    _convert(theirs, graph)
    (theirs / "2_Dense" / "model.safetensors").unlink()
    (theirs / "2_Dense" / "pytorch_model.bin").write_bytes(b"no pickle")
    fast = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache")
    assert fast(input_ids=np.array([[5, 6]])).last_hidden_state.shape == (1, 2, 32)
    with pytest.raises(InputError, match="no sentence embedding"):
        fast.encode(_TEXTS)


@pytest.mark.parametrize("chain", _CHAINS)
def test_vectors_are_those_of_sentence_transformers(chain: str, graph: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    whole = write_directory(tmp_path / "whole", *_CHAINS[chain])
    want = package.SentenceTransformer(str(whole), device="cpu").encode(_TEXTS)
    _convert(whole, graph)
    fast = accelerate(whole, target="ort", budget=0, cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(fast.encode(_TEXTS), want, rtol=1e-3, atol=1e-4)


def test_weights_that_the_graph_has_built_in_are_not_accepted_otherwise(tmp_path: Path) -> None:
    whole = write_directory(tmp_path / "whole", pooling("mean"), _dense(32, 8))
    accelerate(whole, target="ort", budget=0, cache_dir=tmp_path / "cache").save_pretrained(tmp_path / "out")
    save_file({name: -tensor for name, tensor in dense(32, 8)[1].items()}, tmp_path / "out/2_Dense/model.safetensors")
    with pytest.raises(ArtifactError, match=r"2_Dense/model\.safetensors"):
        load(tmp_path / "out").encode(_TEXTS)
    with pytest.raises(ArtifactError, match="built into the graph"):
        accept(tmp_path / "out")
