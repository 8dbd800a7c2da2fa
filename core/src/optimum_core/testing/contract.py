"""Tests of discovery, hooks and probe of a backend. They need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from importlib_metadata import entry_points

from optimum_core.hardware import detect
from optimum_core.plugins import GROUP, PluginInfo, Status, manager
from optimum_core.testing import installed
from optimum_core.testing.imports import private_imports
from optimum_core.testing.processes import in_new_process
from optimum_core.types import (
    Artifact,
    ExportRequest,
    Offer,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
    Support,
)

_OTHER = "someone-else"
_GPU_DEVICES = ("cuda", "dml", "gpu", "migraphx", "mps", "npu", "rocm", "tensorrt", "xpu")


class ContractTests:
    """Tests of discovery, hooks and probe."""

    backend: str

    def test_it_is_found_once_and_ready(self) -> None:
        """Exactly one entry point has the backend's name, and its plugin keeps the hook contract."""
        claims = [item.value for item in entry_points(group=GROUP, name=self.backend)]
        assert len(set(claims)) == 1, f"entry points named {self.backend!r} in the group {GROUP!r}: {claims}"
        infos = [info for info in manager().infos() if info.name == self.backend]
        assert [info.status for info in infos] == [Status.READY], _why_not_ready(infos)
        assert self.backend in manager().names(), "it implements no hook itself"

    def test_its_entry_module_and_probe_are_light(self) -> None:
        """A new process that imports the entry module and probes imports no runtime, no numpy, nothing compiled."""
        found = installed.entry(self.backend)
        assert found is not None, f"no entry point {self.backend!r}"
        heavy = in_new_process("light", found.name, found.value, found.group)
        assert not heavy, f"{found.value} imports {', '.join(heavy)}: import them inside the hook functions"

    def test_it_imports_public_modules_only(self) -> None:
        """Its package imports the public modules of optimum-core alone: others may change in any release."""
        found = installed.entry(self.backend)
        assert found is not None, f"no entry point {self.backend!r}"
        private = private_imports(found.module)
        assert not private, f"private modules of optimum-core are imported: {', '.join(private)}"

    def test_every_offer_has_its_hook(self) -> None:
        """For everything that the probe offers, there is a hook."""
        for offer in installed.probe(self.backend, detect()).offers:
            for hook in _hooks_for(offer):
                assert manager().implements(self.backend, hook), f"{offer} needs the hook {hook!r}"

    def test_every_limitation_says_what_why_and_what_to_do(self) -> None:
        """No field of a limitation is empty, here and on other operating systems, and the hook it names exists."""
        for _, found in installed.answers(self.backend):
            for item in found.limitations:
                assert item.what.strip() and item.reason.strip() and item.remedy.strip(), f"{item} has an empty field"
                assert item.hook in (None, "export", "optimize", "quantize", "load_session"), f"{item} names no hook"

    def test_no_offers_means_a_limitation(self) -> None:
        """A backend without offers has a limitation with the reason."""
        for hardware, found in installed.answers(self.backend):
            assert found.offers or found.limitations, f"nothing offered on {hardware.system}, and no reason given"

    def test_offers_are_well_formed(self) -> None:
        """Devices are unique and every offer has a precision; offers that load a format here name their device."""
        offers = installed.probe(self.backend, detect()).offers
        devices = [offer.device for offer in offers]
        assert len(set(devices)) == len(devices), f"a device is offered twice: {devices}"
        for offer in offers:
            assert offer.device.strip() and offer.precisions, f"{offer} lacks a device or a precision"
            assert not offer.schemes or offer.quantizes, f"{offer} has schemes and quantizes nothing"

    def test_probing_twice_gives_the_same(self) -> None:
        """The result depends on the hardware only."""
        assert installed.probe(self.backend, detect()) == installed.probe(self.backend, detect())

    def test_an_unknown_machine_has_no_gpu(self) -> None:
        """On one core of an unknown vendor without GPUs, probing works and offers no GPU as present."""
        offers = installed.probe(self.backend, installed.BARE).offers
        real = [offer.device for offer in offers if offer.proof == "device"]
        assert not [device for device in real if device.lower().startswith(_GPU_DEVICES)], f"offered: {real}"

    @pytest.mark.parametrize("system", installed.SYSTEMS)
    def test_probing_for_other_systems_does_not_fail(self, system: str) -> None:
        """A probe works for any operating system, also for an unknown one."""
        for hardware in installed.on_other_systems():
            if hardware.system == system:
                assert isinstance(installed.probe(self.backend, hardware), Support)

    def test_requests_for_others_get_no_answer(self, tmp_path: Path) -> None:
        """Every hook returns None for another backend's request or session."""
        hooks = installed.own_hooks(self.backend)
        for hook, ask in _strange_requests(tmp_path).items():
            if manager().implements(self.backend, hook):
                assert getattr(hooks, hook)(**ask()) is None, f"{hook} answers a request for {_OTHER!r}"


def _why_not_ready(infos: Sequence[PluginInfo]) -> str:
    return "\n".join([*(info.error for info in infos), "`optimum-core -v plugins` shows where it was raised"])


def _hooks_for(offer: Offer) -> tuple[str, ...]:
    pairs = (
        (offer.exports, ("export",)),
        (offer.optimizes, ("optimize",)),
        (offer.quantizes, ("quantize",)),
        (offer.loads or offer.live, ("load_session", "infer")),
    )
    return tuple(hook for offered, hooks in pairs if offered for hook in hooks)


class _NoModel:
    name = "none"
    fingerprint = ""
    format = None

    def module(self) -> None:
        raise AssertionError("the model of a request for another backend was read")


def _strange_requests(folder: Path) -> dict[str, Callable[[], dict[str, object]]]:
    artifact = Artifact(format="none", path=folder, files=("none",), inputs=(), outputs=())
    export = ExportRequest(
        backend=_OTHER,
        source=_NoModel(),
        task="custom",
        format="none",
        precision="fp32",
        samples={},
        inputs=(),
        outputs=(),
        output=folder,
    )
    optimize = OptimizeRequest(
        backend=_OTHER, artifact=artifact, device="cpu", precision="fp32", hardware=detect(), output=folder
    )
    quantize = QuantizeRequest(
        backend=_OTHER, artifact=artifact, config=QuantizeConfig(), hardware=detect(), output=folder
    )
    load = SessionRequest(backend=_OTHER, artifact=artifact, device="cpu", hardware=detect())
    return {
        "export": lambda: {"request": export},
        "optimize": lambda: {"request": optimize},
        "quantize": lambda: {"request": quantize},
        "load_session": lambda: {"request": load},
        "infer": lambda: {"session": installed.Strangers(), "inputs": {}},
    }
