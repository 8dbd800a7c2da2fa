"""`accelerate(quantize=…)` from data to a deployed artifact: the promise is kept, or the model is not quantized."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_core import AcceleratedModel, accelerate, load, measure
from optimum_core.cache import Cache
from optimum_core.errors import EvaluationError, OptimumError, OptionError, UnavailableError
from optimum_core.types import Event, QuantizeConfig, Trial

WORDS = [f"w{number}" for number in range(110)]
#: Rows to calibrate on, and others to evaluate on.
_DRAWN = np.random.default_rng(5)
TEXTS = [" ".join(_DRAWN.choice(WORDS, size=_DRAWN.integers(4, 12))) for _ in range(96)]
CALIBRATION, HELD = TEXTS[:48], TEXTS[48:]
DYNAMIC = QuantizeConfig(scheme="dynamic")
#: Rows of one call: a batch that the comparison with eager covers.
_BATCH = 16


@pytest.fixture(scope="module", autouse=True)
def shortly() -> Iterator[None]:
    """The walk measures shortly too: which backend wins decides nothing here."""
    with measure.measuring(measure.Effort(rounds=2, seconds=0.01, steady=math.inf)):
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A classifier in a directory with its tokenizer, and rows labelled by what it says itself.

    Attributes:
        rows: (text, label), the label being eager's own arg-max: its accuracy is 1.
    """

    directory: Path
    model: Any
    tokenizer: Any
    rows: list[tuple[str, int]]

    def score(self, fast: AcceleratedModel) -> float:
        """Accuracy of an accelerated model."""
        guessed: list[int] = []
        for start in range(0, len(self.rows), _BATCH):
            texts = [text for text, _ in self.rows[start : start + _BATCH]]
            inputs = self.tokenizer(texts, padding=True, return_tensors="np")
            guessed += np.asarray(fast(**inputs).logits).argmax(axis=-1).tolist()
        return float(np.mean(np.equal(guessed, [label for _, label in self.rows])))


@pytest.fixture(scope="module")
def classifier(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    directory = tmp_path_factory.mktemp("classifier")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    splitting = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    splitting.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitting, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    model = tiny("text-classification")
    inputs = tokenizer(HELD, padding=True, return_tensors="pt")
    with torch.no_grad():
        labels = model(**inputs).logits.argmax(dim=-1).tolist()
    assert len(set(labels)) > 1, "a model that says one thing alone cannot lose anything"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    rows = list(zip(HELD, labels, strict=True))
    return Classifier(directory=directory, model=model, tokenizer=tokenizer, rows=rows)


@pytest.fixture(scope="module")
def quickest(classifier: Classifier) -> Callable[..., AcceleratedModel]:
    """`accelerate` the classifier, for one shape and in one precision."""
    return partial(accelerate, classifier.directory, shapes=({"batch": 1},), precision="fp32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """An easy promise."""

    fast: AcceleratedModel
    events: tuple[Event, ...]


@pytest.fixture(scope="module", params=["ort", "openvino"])
def kept(request: pytest.FixtureRequest, classifier: Classifier, quickest: Any, without_inc: Any) -> Kept:
    events: list[Event] = []
    with nullcontext() if request.param == "ort" else without_inc():
        fast = quickest(
            target=request.param,
            level="all" if request.param == "ort" else None,
            quantize="static-int8",
            calibration=CALIBRATION,
            evaluate=classifier.rows,
            max_drop="90%",
            progress=events.append,
        )
    return Kept(fast=fast, events=tuple(events))


def test_an_easy_promise_is_kept_by_a_quantized_model(kept: Kept, classifier: Classifier) -> None:
    report = kept.fast.report
    assert report is not None and report.promise is not None and report.chosen is not None
    assert kept.fast.manifest.quantized == "static-int8"
    assert (report.promise.metric, report.promise.baseline, report.promise.kept) == ("accuracy", 1.0, True)
    assert report.promise.limit == pytest.approx(0.9)
    assert report.promise.data == "48 labelled rows"
    (trial,) = [trial for trial in report.walk if trial.outcome == "kept"]
    # What the report says of it is what it does, by another road: the model that was returned, on the same rows.
    assert trial.value == pytest.approx(classifier.score(kept.fast), abs=0.03)
    assert trial.value is not None and trial.drop == pytest.approx(1.0 - trial.value)
    assert trial.config["scheme"] == "static"
    assert trial.size and trial.milliseconds and trial.speedup
    _agree(report.walk, trial)
    assert any("calibrated on 48 items" in note for note in report.notes)
    assert {"calibrate", "evaluate", "quantize", "verify"} <= {event.stage for event in kept.events}


def _agree(walk: Sequence[Trial], chosen: Trial) -> None:
    """The times and the words of what was slower say the same."""
    assert chosen.milliseconds and chosen.speedup
    for trial in walk:
        if trial.reason.endswith("times the time of the chosen"):
            assert trial.milliseconds and trial.speedup
            ratio = float(trial.reason.split()[0])
            assert trial.milliseconds / chosen.milliseconds == pytest.approx(ratio, abs=0.006)
            assert chosen.speedup / trial.speedup == pytest.approx(ratio, abs=0.006)


def test_data_is_read_and_eager_evaluated_before_anything_is_built(kept: Kept) -> None:
    stages = [event.stage for event in kept.events]
    assert stages.index("calibrate") < stages.index("evaluate") < stages.index("export") < stages.index("quantize")


def test_it_is_rounded_and_still_near(kept: Kept, classifier: Classifier) -> None:
    inputs = classifier.tokenizer(HELD, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = classifier.model(**inputs).logits
    got = kept.fast(**inputs).logits
    assert not torch.allclose(got, want, rtol=1e-4, atol=1e-4)
    assert float((got - want).norm() / want.norm()) < 0.5


_ELSEWHERE = """
import json, sys
for name in ("torch", "transformers"):
    sys.modules[name] = None
import numpy as np
from optimum_core import load
model = load(sys.argv[1])
inputs = {name: np.array(value) for name, value in json.load(open(sys.argv[2])).items()}
print(json.dumps({"quantized": model.manifest.quantized, "logits": model(**inputs)["logits"].tolist()}))
"""


def test_saved_and_loaded_without_torch_it_gives_the_same(kept: Kept, classifier: Classifier, tmp_path: Path) -> None:
    kept.fast.save_pretrained(tmp_path / "out")
    inputs = dict(classifier.tokenizer(HELD[:5], padding=True, return_tensors="np"))
    (tmp_path / "inputs.json").write_text(json.dumps({name: value.tolist() for name, value in inputs.items()}))
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "out"), str(tmp_path / "inputs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["quantized"] == "static-int8"
    np.testing.assert_allclose(answer["logits"], np.asarray(kept.fast(**inputs).logits), rtol=1e-3, atol=1e-3)
    assert load(tmp_path / "out").report == kept.fast.report


def test_the_report_holds_the_walk_in_every_form(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    report = kept.fast.report
    assert report is not None
    for text in (str(report), report.to_markdown()):
        assert "Promise: accuracy on 48 labelled rows, 1.0000 eager, may drop by 90 %; kept" in text
        assert "calibrated on 48 items" in text
        assert all(trial.name in text for trial in report.walk if trial.outcome != "skipped")
    tree = json.loads(report.to_json())
    assert [trial["outcome"] for trial in tree["walk"]] == [trial.outcome for trial in report.walk]
    assert tree["promise"]["kept"] is True
    assert tree["walk"][0]["config"]["scheme"] == "static"


# The cache.


def _again(classifier: Classifier, quickest: Any, **changes: Any) -> tuple[AcceleratedModel, set[str]]:
    events: list[Event] = []
    arguments = {"calibration": CALIBRATION, "evaluate": classifier.rows, "max_drop": "90%", **changes}
    fast = quickest(target="ort", level="all", quantize=DYNAMIC, progress=events.append, **arguments)
    return fast, {event.stage for event in events}


def test_the_same_again_comes_from_the_cache_and_other_data_is_done_anew(classifier: Classifier, quickest: Any) -> None:
    first, stages = _again(classifier, quickest)
    assert "quantize" in stages
    second, stages = _again(classifier, quickest)
    assert stages == {"read", "cache"}
    assert second.manifest.quantized == first.manifest.quantized == "dynamic-int8"
    assert second.report is not None and second.report.from_cache
    _, stages = _again(classifier, quickest, calibration=CALIBRATION[:-1])
    assert "calibrate" in stages
    flipped = [*classifier.rows[:-1], (classifier.rows[-1][0], (classifier.rows[-1][1] + 1) % 5)]
    other, stages = _again(classifier, quickest, evaluate=flipped)
    assert "evaluate" in stages
    assert other.report is not None and other.report.promise is not None
    assert other.report.promise.baseline == pytest.approx(47 / 48)


def test_a_function_is_asked_again(classifier: Classifier, quickest: Any) -> None:
    says = [1.0]
    asked: list[str | None] = []

    def metric(model: AcceleratedModel) -> float:
        asked.append(model.manifest.quantized)
        return says[0]

    first, _ = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert first.manifest.quantized == "dynamic-int8"
    assert asked[0] is None  # eager
    assert "dynamic-int8" in asked
    asked.clear()
    _, stages = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert (asked, "quantize" in stages) == (["dynamic-int8"], False)
    says[0] = 0.5  # the promise was 0.9 at least: what was kept is thrown away, and eager is asked anew
    asked.clear()
    _, stages = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert asked[:2] == ["dynamic-int8", None]
    assert "describe" in stages


# Promises that cannot be kept, and calls that cannot be answered.


def test_an_impossible_promise_gives_the_best_unquantized_model(classifier: Classifier, quickest: Any) -> None:
    def metric(model: AcceleratedModel) -> float:
        return 0.0 if model.manifest.quantized else 1.0

    fast = quickest(target="ort", level="all", quantize=DYNAMIC, evaluate=metric, max_drop=0)
    report = fast.report
    assert fast.manifest.quantized is None
    assert report is not None and report.promise is not None and report.chosen is not None
    assert not report.promise.kept
    assert {trial.outcome for trial in report.walk} == {"broken"}
    assert {trial.drop for trial in report.walk} == {1.0}
    assert len(report.walk) > 1  # safer recipes were tried
    assert "none of" in report.chosen.reason and "keeps the promise" in report.chosen.reason
    assert "not kept by any quantized model" in report.to_markdown()
    assert classifier.score(fast) == 1.0


def test_layers_are_left_in_float_until_the_promise_is_kept(quickest: Any) -> None:
    answers = iter([1.0, 1.0, 0.0, 0.0, *[1.0] * 9])  # eager, the best unquantized, two recipes that break it

    fast = quickest(target="ort", level="all", quantize=DYNAMIC, evaluate=lambda model: next(answers), max_drop=0)
    assert fast.report is not None
    judged = [trial for trial in fast.report.walk if trial.value is not None]
    outcomes = [trial.outcome for trial in judged]
    assert outcomes[:2] == ["broken", "broken"]
    assert sorted(set(outcomes[2:])) in (["kept"], ["kept", "slow"])  # it may be slower than its successors should be
    assert outcomes.count("kept") == 1
    left = [trial.name for trial in judged]
    assert "layers in float" not in left[0]
    assert "5% of the layers in float" in left[1]
    assert "15% of the layers in float" in left[2]


def test_a_backend_that_controls_accuracy_goes_by_the_metric(quickest: Any) -> None:
    # Eager, the best unquantized model, the backend's before and after rounding, and with one operation taken back.
    answers = iter([1.0, 1.0, 1.0, 0.0, *[1.0] * 9])
    seen: list[str | None] = []

    def metric(model: AcceleratedModel) -> float:
        seen.append(model.manifest.quantized)
        return next(answers)

    fast = quickest(
        target="openvino",
        quantize=QuantizeConfig(accuracy_control=True),
        calibration=CALIBRATION,
        evaluate=metric,
        max_drop=0,
    )
    assert fast.report is not None and fast.report.promise is not None and fast.report.promise.kept
    assert fast.manifest.quantized == "static-int8"
    assert seen == [None, None, *["static-int8"] * 4]  # the last is the judgement on what came out
    (step,) = [step for step in fast.manifest.steps if step.hook == "quantize"]
    assert step.options["config"]["accuracy_control"] is True
    assert step.options["in_float"]
    (kept,) = [trial for trial in fast.report.walk if trial.outcome == "kept"]
    assert kept.config["accuracy_control"] is True


def _nan(model: AcceleratedModel) -> float:
    return float("nan")


def _raises(model: AcceleratedModel) -> float:
    raise KeyError("no such column")


def _words(model: AcceleratedModel) -> Any:
    return "good"


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (_raises, r"evaluate \(_raises\): it raised KeyError(.|\n)*no such column"),
        (_nan, "it gave nan"),
        (_words, "it gave a str, no number"),
    ],
)
def test_an_evaluate_that_gives_no_number_ends_it_before_anything_is_built(
    evaluate: Any, said: str, quickest: Any, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(EvaluationError, match=said):
        quickest(quantize="int8", evaluate=evaluate, progress=events.append, cache_dir=tmp_path)
    assert not {event.stage for event in events} & {"export", "quantize", "optimize"}
    assert not Cache(tmp_path).list()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


BAD_ROW: list[Any] = [*({"input_ids": [2, 3]} for _ in range(5)), {"input_ids": [2.5, 3]}]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (
            {"quantize": QuantizeConfig(accuracy_control=True), "calibration": CALIBRATION},
            OptionError,
            r"evaluate: accuracy control goes by a metric",
        ),
        ({"quantize": "static-int8"}, OptionError, r"calibration: static-int8 finds ranges(.|\n)*dynamic-int8"),
        ({"quantize": "int8", "calibration": BAD_ROW}, OptionError, "calibration, row 6: (.|\n)*float64"),
        ({"quantize": "int8", "calibration": [{"x": 3}] * 9}, OptionError, "row 1: none of its columns"),
        ({"quantize": "int8", "calibration": HELD[:3]}, OptionError, "3 rows remain"),
        ({"quantize": "static-int8", "evaluate": [("w1", 0), ("w2", 1)]}, OptionError, "so few labelled rows"),
        ({"quantize": "int8", "evaluate": [("w1", "sour")]}, OptionError, "label 'sour' is unknown"),
        ({"quantize": "fp8", "target": "ort"}, UnavailableError, r"nothing on target 'ort' runs it; what runs there"),
        ({"quantize": "int9"}, OptionError, "'int9' is unknown"),
        ({"calibration": CALIBRATION}, OptionError, "it is for quantization, and none was asked for"),
        ({"evaluate": _nan}, OptionError, "it is for quantization"),
        ({"max_drop": 0.1}, OptionError, "it is for quantization"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_built(
    arguments: dict[str, Any], error: type[OptimumError], said: str, quickest: Any, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(error, match=said):
        quickest(progress=events.append, cache_dir=tmp_path, **arguments)
    assert not {event.stage for event in events} & {"export", "quantize", "optimize"}
    assert not Cache(tmp_path).list()


def test_without_evaluate_nearness_to_eager_decides(quickest: Any) -> None:
    fast = quickest(target="ort", level="all", quantize="weight-only-int8", calibration=CALIBRATION)
    assert fast.manifest.quantized == "weight-only-int8"
    report = fast.report
    assert report is not None and report.promise is None
    assert any("compared with eager on 12 items that calibration did not see" in note for note in report.notes)
    fidelity = fast.manifest.fidelity
    assert fidelity is not None and fidelity.passed and fidelity.formed > 0
    assert {result.case for result in fidelity.results} == {"12 items of unseen data"}


def test_the_command(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("scheme: dynamic\nmetric: f1\nmax_drop: 1%\n", encoding="utf-8")
    (tmp_path / "typical.txt").write_text("\n".join(CALIBRATION), encoding="utf-8")
    rows = [json.dumps({"text": text, "label": label}) for text, label in classifier.rows]
    (tmp_path / "labelled.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = [sys.executable, "-m", "optimum_core.cli", "accelerate", str(classifier.directory), str(tmp_path / "out")]
    command += ["--target", "ort", "--quantize", str(tmp_path / "recipe.yaml"), "--max-drop", "95%", "--shapes", "1x8"]
    command += ["--precision", "fp32", "--level", "all"]
    command += ["--calibration", str(tmp_path / "typical.txt"), "--evaluate", str(tmp_path / "labelled.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fast = load(tmp_path / "out")
    assert fast.manifest.quantized == "dynamic-int8"
    assert fast.report is not None and fast.report.promise is not None
    # What was typed goes before what the recipe says.
    assert (fast.report.promise.metric, fast.report.promise.max_drop) == ("f1", "95 %")
    assert "dynamic-int8" in done.stdout and "kept" in done.stdout


def test_a_budget_that_is_over_at_once_still_has_one_recipe_judged(classifier: Classifier, quickest: Any) -> None:
    fast = quickest(
        quantize="static-int8", calibration=CALIBRATION, evaluate=classifier.rows, max_drop="90%", budget=1e-3
    )
    judged = [trial for trial in fast.report.walk if trial.value is not None]
    assert [trial.outcome for trial in judged] == ["kept"]
    assert any("is over" in trial.reason for trial in fast.report.walk)
    assert fast.report.promise.kept
