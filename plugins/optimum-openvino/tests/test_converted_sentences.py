"""A sentence encoder that sentence-transformers saved with OpenVINO keeps its pooling, also when it is saved again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from optimum_core import load

#: Opens a model where torch and transformers are not installed.
_TORCH_FREE = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from optimum_core import accelerate
print(accelerate(sys.argv[1]).encode(["w5 w9"]).shape)
"""

_TABLE = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
_MODULES = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling",
            "base.modules.normalize.Normalize")  # fmt: skip
_FOLDERS = ("", "1_Pooling", "2_Normalize")
_TEXTS = ["w5 w9", "w7", "w3 w4 w5 w6"]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    directory = tmp_path / "theirs"
    (directory / "openvino").mkdir(parents=True)
    for folder in _FOLDERS[1:]:
        (directory / folder).mkdir()
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    hidden = ops.gather(ops.constant(_TABLE), ids, ops.constant(np.int64(0)))
    hidden.output(0).set_names({"last_hidden_state"})
    net = openvino.Model([hidden], [ids], "net")
    openvino.save_model(net, directory / "openvino" / "openvino_model.xml", False)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"w{n}": n for n in range(1, 20)}}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(directory / "tokenizer.json"))
    texts = {
        "modules.json": [
            {"idx": n, "name": str(n), "path": folder, "type": f"sentence_transformers.{kind}"}
            for n, (kind, folder) in enumerate(zip(_MODULES, _FOLDERS, strict=True))
        ],
        "config.json": {"model_type": "bert", "vocab_size": 20, "hidden_size": 8},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"},
        "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True},
        "2_Normalize/config.json": {
            "module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding",
        },
    }  # fmt: skip
    for name, value in texts.items():
        (directory / name).write_text(json.dumps(value), encoding="utf-8")
    return directory


def test_it_encodes_and_is_saved_with_its_modules(theirs: Path, tmp_path: Path) -> None:
    fast = load(theirs)
    found = fast.encode(_TEXTS)
    for text, vector in zip(_TEXTS, found, strict=True):
        want = _TABLE[[int(word[1:]) for word in text.split()]].mean(axis=0)
        np.testing.assert_allclose(vector, want / np.linalg.norm(want), rtol=1e-5, atol=1e-6)
    fast.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(load(tmp_path / "own").encode(_TEXTS), found)
    fast.save_pretrained(tmp_path / "again", layout="optimum")
    kept = {path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*.json")}
    assert {"modules.json", "1_Pooling/config.json", "2_Normalize/config.json"} <= kept
    np.testing.assert_array_equal(load(tmp_path / "again").encode(_TEXTS), found)


def test_accelerate_opens_it_without_torch_too(theirs: Path) -> None:
    """As a server does, of which a model of another package needs no more than one of ours."""
    done = subprocess.run([sys.executable, "-c", _TORCH_FREE, str(theirs)], capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 8)\n", done.stderr
