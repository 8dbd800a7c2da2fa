"""Accuracy control: NNCF takes back what costs most, until a metric of the test's own is good enough."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import openvino
import pytest

from optimum_core.errors import EvaluationError, OptionError, PromiseError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, Session
from optimum_openvino import plugin
from optimum_openvino.session import OvSession

pytest.importorskip("nncf", reason="the extra `quantize` is not installed")

Exported = tuple[Artifact, list[Any]]

CONTROLLED = QuantizeConfig(accuracy_control=True)


@pytest.fixture
def control(
    bert: Exported, quantize_request: Callable[..., QuantizeRequest], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Artifact]:
    """Quantize the small BERT, with another configuration or shortfall."""
    artifact, batches = bert

    def make(config: QuantizeConfig = CONTROLLED, **changes: Any) -> Artifact:
        request = quantize_request(
            artifact, config, calibration=batches, output=tmp_path_factory.mktemp("written"), **changes
        )
        try:
            written = plugin.quantize(request)
        except Exception:
            assert not list(request.output.iterdir())
            raise
        assert written is not None
        return written

    return make


@pytest.fixture
def error(tiny: Callable[[str], Any]) -> Callable[[Session], float]:
    """Return the distance of a session from eager, over all cases and every row that has tokens."""

    def measured(session: Session) -> float:
        own: Any = session
        differences = []
        for case in tiny("bert features").cases:
            apart = np.abs(own.run(case.inputs)["last_hidden_state"] - case.outputs["last_hidden_state"])
            read = case.valid.get("sequence", np.ones(apart.shape[:2], bool))
            differences.append(apart[read & case.inputs["attention_mask"].any(axis=1, keepdims=True)].mean())
        return float(np.mean(differences))

    return measured


def integers(artifact: Artifact) -> int:
    """Return the number of matrices in 8 bits."""
    operations = openvino.Core().read_model(artifact.main_file).get_ops()
    return sum(
        operation.get_type_name() == "Constant" and operation.get_element_type().get_type_name() == "i8"
        for operation in operations
    )


def test_a_promise_that_plain_rounding_breaks_is_kept(
    control: Callable[..., Artifact], error: Callable[[Session], float], load: Callable[..., OvSession]
) -> None:
    plain = control(QuantizeConfig(smooth=0.0))
    before, many = error(load(plain)), integers(plain)
    allowed = before / 2
    asked: list[float] = []

    def shortfall(session: Session) -> float:
        asked.append(error(session))
        return max(0.0, asked[-1] - allowed)

    written = control(shortfall=shortfall)
    assert error(load(written)) <= allowed
    assert 0 < integers(written) < many
    step = written.steps[-1].options
    assert step["in_float"] and all(name.startswith("__module.") for name in step["in_float"])
    assert asked[0] == pytest.approx(0.0, abs=1e-4), "the model as it was is asked about first"
    assert asked[-1] <= allowed < min(asked[1:-1])


def test_what_keeps_the_promise_at_once_is_not_touched(control: Callable[..., Artifact]) -> None:
    kept = control(shortfall=lambda session: 0.0)
    assert kept.steps[-1].options["in_float"] == []
    weights = integers(kept)
    assert weights == integers(control(QuantizeConfig(smooth=0.0)))


def test_where_nothing_may_be_rounded_nothing_is_written(control: Callable[..., Artifact]) -> None:
    answers = iter([0.0])  # the model as it was; whatever else it asks about falls short

    def shortfall(session: Session) -> float:
        return next(answers, 0.125)

    with pytest.raises(PromiseError, match=r"took everything back(.|\n)*0.125 of the metric is still lacking"):
        control(shortfall=shortfall)


def test_it_wants_a_metric_and_ends_with_the_time(control: Callable[..., Artifact]) -> None:
    with pytest.raises(OptionError, match="goes by a metric"):
        control()
    with pytest.raises(PromiseError, match=r"the time for accuracy control is over(.|\n)*budget"):
        control(shortfall=lambda session: 0.0, seconds=0.0)
    with pytest.raises(OptionError, match=r"'smooth' cannot be 0.5 here(.|\n)*without accuracy control"):
        control(QuantizeConfig(accuracy_control=True, smooth=0.5), shortfall=lambda session: 0.0)


def test_a_metric_that_gives_no_number_ends_it_in_its_own_words(control: Callable[..., Artifact]) -> None:
    def shortfall(session: Session) -> float:
        raise EvaluationError("evaluate (mine)", "it gave nan", "return a finite number")

    with pytest.raises(EvaluationError, match="it gave nan"):
        control(shortfall=shortfall)


def test_only_the_metric_is_heard(control: Callable[..., Artifact], capsys: pytest.CaptureFixture[str]) -> None:
    def shortfall(session: Session, lines: list[str]) -> float:
        lines.append(session.device)
        sys.stdout.write(f"asked {len(lines)}\n")
        sys.stderr.write("aside\n")
        return 0.0

    lines: list[str] = []
    control(shortfall=partial(shortfall, lines=lines))
    printed = capsys.readouterr()
    assert printed.out.split("\n")[:-1] == [f"asked {number + 1}" for number in range(len(lines))]
    assert printed.err == "aside\n" * len(lines)
    assert set(lines) == {"cpu"}
