"""The server learns shapes without contents, is tuned for them without losing a request, and sees errors and drift."""

from __future__ import annotations

import json
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client import CollectorRegistry

from optimum_core import load
from optimum_core.errors import OptionError
from optimum_core.types import Traffic
from optimum_serve import ModelSettings
from optimum_serve.monitoring import drift, retuning, truth, watch
from optimum_serve.monitoring.drift import Drift, stability_index
from optimum_serve.monitoring.eager import Begin, opened
from optimum_serve.monitoring.figures import MonitoringFigures
from optimum_serve.monitoring.truth import TruthSampler
from waiting import until

TEXTS = ["w5 w9 w7", "w50", "w10 w11 w12 w13 w14"]
_IDS = {"name": "input_ids", "shape": [2, 6], "datatype": "INT64", "data": [2, 5, 6, 7, 8, 3] * 2}
_MASK = {**_IDS, "name": "attention_mask", "data": [1] * 12}


@pytest.fixture(autouse=True)
def usual_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a process of the lowest priority does not come to an end."""
    monkeypatch.setattr(truth, "LOWEST", 0)


# Traffic.


def test_shapes_are_counted_shown_and_added_to_the_file(serve: Any, artifacts: Path, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "traffic.json"
    for _ in range(2):
        live = serve("classifier", "writer", traffic_file=str(file))
        live.client.post("/predict", json={"inputs": "w5 w9 w7"}).raise_for_status()
        answer = live.client.post("/v2/models/classifier/infer", json={"inputs": [_IDS, _MASK]})
        assert answer.status_code == 200, answer.text
        body = {"model": "writer", "prompt": "abcd", "max_tokens": 3, "temperature": 0}
        live.client.post("/v1/completions", json=body).raise_for_status()
        shown = Traffic.from_json(live.client.get("/traffic.json").text, "shown")
        live.stop()
    written = Traffic.from_json(file.read_text(), "file")
    assert "w5" not in file.read_text()
    by_name = {one.name: one for one in written.models}
    assert by_name["classifier"].fingerprint == load(artifacts / "classifier").manifest.model.fingerprint
    calls = {tuple(one.lengths.values()): one.count for one in by_name["classifier"].calls}
    assert calls == {(1, 5): 2, (2, 6): 2}  # three words between two marks; the client's own batch
    assert by_name["classifier"].requests == by_name["classifier"].calls
    (text,) = by_name["writer"].calls
    assert text.lengths["sequence"] == 4 and 1 <= text.lengths["new"] <= 4 and text.count == 2
    assert {one.name: sum(each.count for each in one.calls) for one in shown.models} == {"classifier": 2, "writer": 1}


def test_another_file_is_not_written_over(serve: Any, tmp_path: Path) -> None:
    for setting in ("traffic_file", "drift_file"):
        (tmp_path / "notes.json").write_text('{"a": 1}')
        with pytest.raises(OptionError, match=setting):
            serve("classifier", **{setting: str(tmp_path / "notes.json")})
    assert (tmp_path / "notes.json").read_text() == '{"a": 1}'


# Retuning.


def test_it_is_tuned_and_swapped_while_every_request_is_answered(
    serve: Any, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIMUM_DISABLED_BACKENDS", "openvino,inc,trt,coreml")
    monkeypatch.setattr(retuning, "_runs_alike", lambda one, other: False)
    live = serve("encoder", api_keys=("secret",))
    assert live.client.post("/retune", json={}).status_code == 401
    live.client.headers["Authorization"] = "Bearer secret"
    assert live.client.post("/retune", json={}).json()["error_type"] == "no_traffic"
    want, former = load(artifacts / "encoder").encode(TEXTS), live.app.state.server.models["encoder"].model
    wrong: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=live.url, timeout=60, headers=live.client.headers) as client:
            while not done.is_set():
                answer = client.post("/embed", json={"inputs": TEXTS})
                if answer.status_code != 200 or not np.allclose(answer.json(), want, atol=1e-5):
                    wrong.append(answer.text)
                time.sleep(0.2)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    live.client.post("/embed", json={"inputs": TEXTS}).raise_for_status()
    for thread in threads:
        thread.start()
    begun = live.client.post("/retune", json={"model": "encoder"})
    assert (begun.status_code, begun.json()) == (202, {"models": {"encoder": "running"}})
    assert live.client.post("/retune", json={}).status_code == 409
    until(lambda: live.client.get("/retune").json()["models"]["encoder"] != "running")
    time.sleep(0.2)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    state = live.client.get("/retune").json()["models"]["encoder"]
    assert state.startswith("swapped: tuned for ") and "batch=3 sequence=7" in state
    assert live.app.state.server.models["encoder"].model is not former
    copy = live.app.state.server.models["encoder"].model.directory
    assert 'optimum_retunes_total{model="encoder",outcome="swapped"} 1.0' in live.client.get("/metrics").text
    live.stop()
    assert not copy.exists() and (artifacts / "encoder").exists()


def test_it_is_due_after_so_many_calls_and_again_where_shapes_have_moved(serve: Any) -> None:
    live = serve("classifier", retune_after=3)
    model, retuner = live.app.state.server.models["classifier"], live.app.state.server.retuner
    for _ in range(2):
        live.client.post("/predict", json={"inputs": "w5"})
    assert not retuner.is_due(model)
    live.client.post("/predict", json={"inputs": "w5"})
    assert retuner.is_due(model)
    retuner._tuned_for["classifier"] = model.watch.traffic.since()
    for _ in range(4):
        live.client.post("/predict", json={"inputs": "w5"})
    assert not retuner.is_due(model)
    for _ in range(20):
        live.client.post("/predict", json={"inputs": "w5 w6 w7 w8 w9 w10"})
    assert retuner.is_due(model)


# Truth.


def test_answers_are_compared_with_the_eager_model_aside(artifacts: Path, serve: Any) -> None:
    model, registry = load(artifacts / "classifier"), CollectorRegistry()
    original = str(artifacts / "sources" / "classifier")
    begin = Begin(original, model.manifest.model.fingerprint, "fp32")
    sampler = TruthSampler("m", begin, 2, MonitoringFigures(registry))

    def count(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"optimum_truth{name}_total", {"model": "m", **labels}) or 0.0

    live = serve("classifier")
    live.app.state.server.models["classifier"].watch.truth = sampler
    live.client.post("/predict", json={"inputs": [["w5 w9"], ["w7"]]}).raise_for_status()  # one of two is sampled
    until(lambda: count("", verdict="within") == 1)
    assert count("_choices", agrees="true") == 1
    (item,) = model.tokenize(["w5 w9"])
    logits = model.map(["w5 w9"]).logits[0]
    for _ in range(2):
        sampler.offer(item, {"logits": -logits})
    until(lambda: count("", verdict="beyond") == 1)
    assert count("_choices", agrees="false") == 1
    assert registry.get_sample_value("optimum_truth_error_count", {"model": "m"}) == 2
    assert sampler._child is not None
    comparing = psutil.Process(sampler._child.pid)
    comparing.suspend()
    for _ in range(100):
        sampler.offer(item, {"logits": logits})  # does not wait for the comparison, which does not go on
    assert count("", verdict="dropped") > 0
    comparing.resume()
    live.stop()
    assert sampler._child.poll() is not None


def test_another_original_is_noticed(artifacts: Path) -> None:
    model, verdict = opened(Begin(str(artifacts / "sources" / "classifier"), "0" * 64, "fp32"))
    assert model is None and "is not the model that the served one was made from" in verdict.problem
    model, verdict = opened(Begin(str(artifacts / "nowhere"), "0" * 64, "fp32"))
    assert model is None and "nowhere" in verdict.problem


# Drift.


def test_the_index_is_small_for_the_same_and_large_for_another_distribution() -> None:
    clock = [0.0]
    watched = Drift(60, {}, lambda: clock[0])
    random = np.random.default_rng(3)
    for _ in range(30):
        watched.add("length", random.integers(5, 30, 50).tolist())
        clock[0] += 3
    assert 0 <= watched.index("length") < 0.1 and np.isnan(watched.index("score"))
    for _ in range(30):
        watched.add("length", random.integers(100, 300, 50).tolist())
        clock[0] += 3
    assert watched.index("length") > 0.25
    later = Drift(60, drift.read_baselines(drift.write_baselines({"m": watched.baseline()}))["m"], lambda: clock[0])
    later.add("length", [10] * 300)
    assert later.index("length") > 0  # it need not learn
    clock[0] += 100
    assert np.isnan(later.index("length"))
    assert stability_index([10, 20], [100, 200]) < 0.01


def test_drift_of_a_server_is_a_figure_and_its_beginning_is_kept(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "LEAST", 20)
    file = tmp_path / "drift.json"
    clock = [0.0]
    monkeypatch.setattr(watch, "Drift", partial(Drift, clock=lambda: clock[0]))
    live = serve("classifier", drift_window=60, drift_file=str(file))
    short = {"inputs": [[f"w{4 + number % 50}"] for number in range(40)]}
    live.client.post("/predict", json=short).raise_for_status()
    clock[0] += 61
    strange = {"inputs": [["w5 w6 w7 unheard unheard unheard w8 w9"]] * 40}
    live.client.post("/predict", json=strange).raise_for_status()
    figures = live.client.get("/metrics").text
    found = {
        line.partition('of="')[2].partition('"')[0]: float(line.split()[-1])
        for line in figures.splitlines()
        if line.startswith("optimum_drift{")
    }
    assert found["length"] > 0.25 and found["unknown"] > 0.25 and found["score"] >= 0
    assert 'optimum_input_tokens_count{model="classifier"} 80.0' in figures
    live.stop()
    kept = json.loads(file.read_text())["models"]["classifier"]
    assert sum(kept["length"]) == 40 and "unheard" not in file.read_text()


def test_a_model_of_another_package_is_not_begun_to_be_tuned(serve: Any, tmp_path: Path) -> None:
    """It has no original, and no call of one, with which a tuned one could be compared."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    live = serve(ModelSettings(source=str(tmp_path), name="theirs"), retune_after=1)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 1.0, 2.0, 3.0]}
    live.client.post("/v2/models/theirs/infer", json={"inputs": [tensor]}).raise_for_status()
    answer = live.client.post("/retune", json={})
    assert answer.status_code == 409 and "no call of an original" in answer.json()["error"]
    assert live.client.get("/retune").json()["models"] == {}
    assert not live.app.state.server.retuner.is_due(live.app.state.server.models["theirs"])
    live.stop()


def test_what_a_process_that_tunes_says_is_told_once(serve: Any, artifacts: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(artifacts / "encoder", tmp_path / "encoder"))
    live = serve(ModelSettings(source=str(place), name="encoder"))
    live.client.post("/embed", json={"inputs": TEXTS}).raise_for_status()
    (place / "check.npz").unlink()
    assert live.client.post("/retune", json={}).status_code == 202
    until(lambda: live.client.get("/retune").json()["models"]["encoder"] != "running")
    state = live.client.get("/retune").json()["models"]["encoder"]
    assert state.startswith("failed: ") and "check.npz" in state and state.count("What to do") == 1
    live.stop()
