"""Pickles and copies of an accelerated model, and the files beside it that are read late: never those of another."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import optimum_core.artifact as artifacts
from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.cache import Cache
from optimum_core.errors import ArtifactError, UnavailableError

CALL = {"input_ids": np.array([[5, 6, 7, 8]])}


def test_pickled_and_copied_it_answers_the_same(fast: AcceleratedModel) -> None:
    want = fast(**CALL).logits
    raw = pickle.dumps(fast)
    assert len(raw) < 100_000
    for again in (pickle.loads(raw), copy.deepcopy(fast), copy.copy(fast), copy.deepcopy({"a": [fast]})["a"][0]):
        with again:
            assert again is not fast
            assert (repr(again), type(again).__name__) == (repr(fast), type(fast).__name__)
            assert again.report == fast.report
            np.testing.assert_allclose(again(**CALL).logits, want, rtol=1e-5)
    np.testing.assert_allclose(fast(**CALL).logits, want, rtol=1e-5)  # closing a copy leaves it as it is


def test_another_process_gets_it_and_needs_no_torch(fast: AcceleratedModel, tmp_path: Path) -> None:
    (tmp_path / "pickled").write_bytes(pickle.dumps(fast))
    np.save(tmp_path / "want.npy", fast(**CALL).logits)
    code = (
        "import pickle, sys, numpy as np\n"
        "fast = pickle.load(open('pickled', 'rb'))\n"
        "got = fast(input_ids=np.array([[5, 6, 7, 8]])).logits\n"
        "assert np.allclose(got, np.load('want.npy'), rtol=1e-5), got\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_working_directory_may_change(
    fast: AcceleratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = fast(**CALL).logits
    fast.save_pretrained(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with load("out", target="ort:cpu") as loaded:
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pickle.loads(pickle.dumps(loaded)) as again, copy.deepcopy(loaded) as copied:
            np.testing.assert_allclose(again(**CALL).logits, want, rtol=1e-5)
            np.testing.assert_allclose(copied(**CALL).logits, want, rtol=1e-5)
        assert loaded.config.num_labels == fast.config.num_labels
        loaded.save_pretrained("saved")
    assert artifacts.load(tmp_path / "elsewhere" / "saved").verified
    assert Cache(Path("cache")).root == tmp_path / "elsewhere" / "cache"


def test_pickled_it_needs_its_files(fast: AcceleratedModel, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out", target="ort:cpu") as loaded:
        raw = pickle.dumps(loaded)
    pickle.loads(raw).close()
    (tmp_path / "out" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match=r"model\.onnx, which is not here or was changed(.|\n)*save_pretrained"):
        pickle.loads(raw)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ArtifactError, match="which is not here"):
        pickle.loads(raw)


def test_pickled_it_is_not_another_that_was_saved_there_since(fast: AcceleratedModel, tmp_path: Path) -> None:
    """Of the same architecture, so that its files are as long."""
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        raw = pickle.dumps(loaded)
        model = tmp_path / "out" / "model.onnx"
        model.write_bytes(model.read_bytes()[::-1])  # as another save would leave them: other bytes, and a manifest
        artifacts.write(tmp_path / "out", loaded.manifest)
        for again in (partial(pickle.loads, raw), partial(copy.deepcopy, loaded)):
            with pytest.raises(ArtifactError, match=r"model\.onnx, which is not here or was changed"):
                again()


@pytest.mark.parametrize("layout", [None, "optimum"])
def test_it_is_not_saved_from_another_that_was_saved_there_since(
    fast: AcceleratedModel, tmp_path: Path, layout: str | None
) -> None:
    """The layout of another package has no manifest that could tell the two apart later."""
    fast.save_pretrained(tmp_path / "out")
    model = tmp_path / "out" / "model.onnx"
    with load(tmp_path / "out") as loaded:
        loaded.save_pretrained(tmp_path / "same", layout=layout)
        model.write_bytes(model.read_bytes()[::-1])
        artifacts.write(tmp_path / "out", loaded.manifest)
        with pytest.raises(ArtifactError, match=r"saved from .*model\.onnx, which .*\n.*accelerate it again"):
            loaded.save_pretrained(tmp_path / "again", layout=layout)
        assert not (tmp_path / "again").exists()
        shutil.rmtree(tmp_path / "out")
        with pytest.raises(ArtifactError, match=r"saved from .*, which is not here.*\n.*accelerate it again"):
            loaded.save_pretrained(tmp_path / "again", layout=layout)


def test_a_tokenizer_that_was_changed_since_is_not_read(
    fast: AcceleratedModel, tokenizer_file: Path, tmp_path: Path
) -> None:
    fast.save_pretrained(tmp_path / "bare")
    for file in tokenizer_file.iterdir():
        shutil.copy(file, tmp_path / "bare")
    artifacts.write(tmp_path / "bare", fast.manifest)
    with load(tmp_path / "bare") as loaded:
        file = tmp_path / "bare" / "tokenizer.json"
        file.write_text(file.read_text().replace('"w5"', '"w6"', 1))
        said = r"tokenizer\.json(.|\n)*changed since the model was opened(.|\n)*open it again"
        with pytest.raises(ArtifactError, match=said):
            loaded.map(["w5 w6"])


def test_a_tokenizer_that_was_written_again_is_read(
    fast: AcceleratedModel, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Of tutorials, many save the tokenizer into the directory after the model."""
    fast.save_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_file)
    tokenizer.save_pretrained(tmp_path / "out")
    artifacts.write(tmp_path / "out", fast.manifest)
    with load(tmp_path / "out") as loaded:
        before = loaded.map(["w5 w6"])["logits"]
        tokenizer(["w5", "w6 w7"], padding=True, truncation=True, max_length=4)
        tokenizer.save_pretrained(tmp_path / "out")
        np.testing.assert_array_equal(loaded.map(["w5 w6"])["logits"], before)
        with copy.deepcopy(loaded) as again:
            np.testing.assert_array_equal(again.map(["w5 w6"])["logits"], before)
        (tmp_path / "out" / "added_tokens.json").write_text('{"w5": 7}')
        with pytest.raises(ArtifactError, match=r"added_tokens\.json(.|\n)*changed since the model was opened"):
            copy.deepcopy(loaded)


def test_an_eager_one_takes_its_model_along(tmp_path: Path) -> None:
    class Local(torch.nn.Linear):
        pass

    x = torch.rand(2, 8)
    eager = accelerate(torch.nn.Linear(8, 2), target="torch", budget=0, cache_dir=tmp_path, sample_inputs=x)
    for again in (pickle.loads(pickle.dumps(eager)), copy.deepcopy(eager)):
        torch.testing.assert_close(again(x), eager(x))
    plain = accelerate(Local(8, 2), target="torch", budget=0, cache_dir=tmp_path, sample_inputs=x)
    with pytest.raises(UnavailableError, match=r"stayed eager(.|\n)*save_pretrained"):
        pickle.dumps(plain)
