"""Targets that name no backend, names that no backend may have, and what is said where there is none."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from importlib_metadata import EntryPoint

from optimum_core.errors import PluginError, UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import GROUP, PluginManager, Status
from optimum_core.plugins.naming import explain
from optimum_core.types import Cpu, Hardware, Limitation, Offer, Support, Transform

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)
SUPPORTS = {
    "ort": Support(
        offers=(Offer(device="cpu", loads=("onnx",)),),
        limitations=(Limitation(what="run there", reason="no NVIDIA GPU found", remedy="use 'cpu'", device="cuda"),),
    ),
    "torch": Support(offers=(Offer(device="cpu", live=True),)),
    "far": Support(offers=(Offer(device="cpu", loads=("far",), proof="none"),)),
}
PLUGINS = Path(__file__).parents[2] / "plugins"
CONVERSION = Transform(takes="onnx", gives="acme")


class Backend:
    def __init__(self, answer: object = None) -> None:
        self.answer = answer or Support(offers=(Offer(device="cpu"),))

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("onnxruntime", "did you mean 'ort'?"),
        ("ONNX Runtime", "did you mean 'ort'?"),
        ("ORT", "did you mean 'ort'?"),
        ("optimum-ort", "did you mean 'ort'?"),
        ("pytorch", "did you mean 'torch'?"),
        ("trt", "pip install optimum-trt"),
        ("tensorrt", "pip install optimum-trt, and target='trt'"),
        ("intel", "pip install optimum-openvino, and target='openvino'"),
        ("OpenVINO", "pip install optimum-openvino, and target='openvino'"),
        ("neural-compressor", "pip install optimum-inc, and target='inc'"),
        ("core-ml", "pip install optimum-coreml, and target='coreml'"),
        ("openvin", "did you mean 'openvino'? pip install optimum-openvino"),
        ("cpu", "name a backend with it: target='ort:cpu' or target='torch:cpu'"),
        ("cuda", "no backend here runs on it: ort: no NVIDIA GPU found (use 'cpu')"),
        ("gpu", "no backend here runs on it: ort: no NVIDIA GPU found (use 'cpu')"),
        ("mps", "no backend here runs on it; see `optimum-core plugins`"),
        ("quantum", "install the distribution that ships it"),
    ],
)
def test_what_was_meant_by_a_target_that_names_no_backend(name: str, remedy: str) -> None:
    assert explain(name, ["ort", "torch", "far"], SUPPORTS)[1].startswith(remedy)


def test_only_distributions_that_this_project_ships_are_to_be_installed() -> None:
    known = tomllib.loads((PLUGINS.parent / "core/src/optimum_core/plugins/known.toml").read_text(encoding="utf-8"))
    shipped: dict[str, str] = {}
    for file in PLUGINS.glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        shipped |= dict.fromkeys(project.get("entry-points", {}).get(GROUP, {}), project["name"])
    assert {name: about["distribution"] for name, about in known["backends"].items() if name != "torch"} == shipped


@pytest.mark.parametrize("name", ["auto", "a:b", "My Engine!", "Acme", "", "a,b", " a"])
def test_a_name_that_cannot_be_asked_for_is_refused(name: str) -> None:
    plugins = PluginManager([EntryPoint(name=name, value="nowhere", group=GROUP)])
    (info,) = plugins.infos()
    assert (info.name, info.status) == (name, Status.BROKEN)
    assert "its name" in info.error
    with pytest.raises(PluginError, match="its name") as caught:
        PluginManager([]).register(Backend(), name)
    assert "lower-case" in caught.value.remedy


@pytest.mark.parametrize(
    ("answer", "told", "remedy"),
    [
        (Support(offers=("cpu",)), r"offers\[0\] = 'cpu' where an Offer", "docs/fields.md"),  # type: ignore[arg-type]
        (Support(offers=Offer(device="cpu")), "offers = .* where a tuple of Offers", "comma"),  # type: ignore[arg-type]
        (
            Support(offers=(Offer(device="cpu", optimizes=(CONVERSION,), levels=("fast",)),)),
            r"offers\[0\].levels = .*where no level \(nothing in its `optimizes` gives the format that it takes\)",
            "docs/fields.md",
        ),
        (
            Support(offers=(Offer(device="cpu", loads=("onnx",), named_levels=("fast",)),)),
            r"offers\[0\].named_levels = .*where no level",
            "docs/fields.md",
        ),
        (Support(offers=(Offer(device="cpu", loads="onnx"),)), "loads = 'onnx' where a tuple of texts", "('onnx',)"),  # type: ignore[arg-type]
        (Support(offers=(Offer(device=""),)), r"offers\[0\]\.device = '' where a device that a target", "fields.md"),
        (Support(offers=(Offer(device="gpu: 0"),)), r"offers\[0\]\.device = 'gpu: 0' where a device", "fields.md"),
        (Support(offers=(Offer(device="cpu", loads=["onnx"]),)), r"offers\[0\]\.loads", "('onnx',)"),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", precisions=(16,)),)), r"precisions\[0\] = 16 where a text", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device=None),)), r"offers\[0\]\.device = None where a text", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", opset="21"),)), "opset = '21' where a whole number or None", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", live="yes"),)), "live = 'yes' where True or False", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", proof="maybe"),)), "proof = 'maybe' where one of 'device'", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", optimizes=("onnx",)),)), r"optimizes\[0\] = 'onnx' where a Transform", ""),  # type: ignore[arg-type]
        (Support(limitations=("no GPU",)), r"limitations\[0\] = 'no GPU' where a Limitation", ""),  # type: ignore[arg-type]
        (Support(limitations=(Limitation(what="x", reason=3, remedy=""),)), r"limitations\[0\]\.reason = 3", ""),  # type: ignore[arg-type]
        (Support(versions={"acme": 2}), r"versions\['acme'\] = 2 where a text", ""),  # type: ignore[dict-item]
        (Support(versions=None), "versions = None where a mapping of texts to texts", ""),  # type: ignore[arg-type]
        (Support(check_options="all"), "check_options = 'all' where", ""),  # type: ignore[arg-type]
        (Support(offers=(Offer(device="cpu", precisions=("float32",)),)), "'float32' where one of 'fp32', 'bf16'", ""),
        (Support(offers=(Offer(device="cpu", precisions=()),)), r"precisions = \(\) where at least one precision", ""),
        (Support(offers=(Offer(device="cpu", crash_prone=("bf16",)),)), "crash_prone = 'bf16' where one of 'fp32'", ""),
        (Support(offers=(Offer(device="cpu", stateful_caches=("8bit",)),)), "= '8bit' where one of 'int8'", ""),
    ],
)  # fmt: skip
def test_a_malformed_probe_hurts_its_own_backend_alone(answer: Support, told: str, remedy: str) -> None:
    plugins = PluginManager([])
    plugins.register(Backend(answer), "bad")
    plugins.register(Backend(), "good")
    assert list(plugins.supports(HARDWARE)) == ["good"]
    bad = next(info for info in plugins.infos() if info.name == "bad")
    assert bad.status is Status.BROKEN
    with pytest.raises(PluginError, match=told) as caught:
        plugins.support("bad", HARDWARE)
    assert remedy in caught.value.remedy


def test_where_no_backend_is_installed_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    note = PluginManager([]).missing_note()
    assert note.startswith("no backend is installed")
    assert "pip install optimum-ort" in note
    with_one = PluginManager([])
    with_one.register(Backend(), "acme")
    assert with_one.missing_note() == ""
    point = EntryPoint(name="acme", value="nowhere_at_all", group=GROUP)
    assert "no backend works here (acme)" in PluginManager([point]).missing_note()
    monkeypatch.setenv("OPTIMUM_DISABLED_BACKENDS", "acme")
    assert PluginManager([point]).missing_note() == ""


def test_an_unknown_target_is_explained_by_the_manager() -> None:
    plugins = PluginManager([])
    plugins.register(Backend(), "acme")
    plugins.supports(HARDWARE)
    with pytest.raises(UnavailableError, match="is a device, and no backend") as caught:
        plugins.support("cpu", HARDWARE)
    assert "target='acme:cpu'" in caught.value.remedy
