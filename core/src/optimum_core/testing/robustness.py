"""Tests of a backend with damaged files and unknown options, in new processes, over many sessions, and quantized."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimum_core.errors import OptimumError, OptionError, PluginError
from optimum_core.hardware import detect
from optimum_core.plan import Target, Way, ways
from optimum_core.plugins import manager
from optimum_core.testing.models import KINDS, model
from optimum_core.testing.processes import in_new_process, in_other_process
from optimum_core.testing.subjects import Subject, disagreements, exported, numpy_of, scratch
from optimum_core.types import Artifact, Offer, QuantizeConfig, QuantizeRequest, Transform
from optimum_core.types.arrays import NDArray
from optimum_core.verify import relative_error

_FIRST, _LAST = 20, 60
#: If little is added between these two, it does not leak: to open further sessions would take long.
_EARLY = 5, 15
_MIB = 1 << 20
#: Threads or handles: half of the sessions between the two counts, so that a pool may still grow a little.
_PILE = (_LAST - _FIRST) // 2
_SAME = 1e-5


class RobustnessTests:
    """Tests with damaged files, unknown options, other processes, memory leaks and quantization."""

    backend: str
    option = ""
    leak_mib = 12

    @pytest.mark.parametrize("damage", ["missing", "truncated", "random"])
    def test_damaged_files_are_refused(self, subject: Subject, damage: str) -> None:
        """A missing, truncated or random file is an error with a remedy: no crash, no other library's exception."""
        _needs_files(subject)
        requests = {
            file: subject.request(artifact=_damaged(subject.artifact, file, damage))
            for file in _files_to_damage(subject.artifact)
        }
        for file, answer in in_other_process("run_each", requests, subject.model.draw(1)).items():
            told = {key: answer.get(key) for key in ("error", "who", "why", "remedy")}
            assert answer["outputs"] is None, f"{file} {damage}, and it ran"
            assert told["error"] != PluginError.__name__, f"{file} {damage}: not the backend's own error: {told}"
            assert all(told.values()), f"{file} {damage}: {told}"

    def test_an_unknown_option_is_refused(self, subject: Subject) -> None:
        """An `OptionError` names the unknown option, and the nearest one where the suite states one."""
        unknown = f"{self.option}x" if self.option else "no_such_option_at_all"
        with pytest.raises(OptionError) as caught, subject.opened(options={unknown: 1}):
            pass
        assert unknown in str(caught.value)
        assert caught.value.who and caught.value.remedy
        if self.option:
            assert self.option in caught.value.remedy, f"the remedy does not name the nearest: {caught.value.remedy}"

    def test_another_process_gives_the_same(self, subject: Subject) -> None:
        """The files on disk are sufficient: opened in another process, they give the same outputs."""
        _needs_files(subject)
        inputs = subject.model.draw(1)
        with subject.opened() as (_, run):
            want = {name: array.copy() for name, array in numpy_of(run(inputs)).items()}
        folder = scratch() / "moved"
        shutil.copytree(subject.artifact.path, folder)
        request = subject.request(artifact=replace(subject.artifact, path=folder))
        answer = in_other_process("run", request, inputs)
        assert not answer["error"], answer
        for name, array in want.items():
            got: NDArray = answer["outputs"][name]
            assert got.shape == array.shape
            assert relative_error(array.astype(np.float64), got.astype(np.float64)) <= _SAME, name

    def test_sessions_do_not_leak(self, subject: Subject) -> None:
        """Memory grows by at most `leak_mib` from the 20th session to the 60th; threads and files do not pile up.

        Where almost nothing was added from the 5th to the 15th, no more are opened.
        """
        _needs_files(subject)
        # In a quarter of the sessions an eighth of the memory, and nothing else: half of what is allowed.
        little = {"bytes": self.leak_mib * _MIB // 8, "threads": 0, "handles": 0}
        counts = sorted((*_EARLY, _FIRST, _LAST))
        held = in_new_process("leak", subject.request(), subject.model.draw(1), counts, little)
        if _LAST not in held:
            return
        grown = {name: held[_LAST][name] - held[_FIRST][name] for name in held[_LAST]}
        since = f"more after {_LAST} sessions, each of them closed, than after {_FIRST}"
        assert grown["bytes"] < self.leak_mib * _MIB, f"{grown['bytes'] / _MIB:.0f} MiB {since}"
        assert grown["threads"] < _PILE, f"{grown['threads']} threads {since}"
        assert grown["handles"] < _PILE, f"{grown['handles']} open files or other handles {since}"

    def test_some_quantization_is_right(self) -> None:
        """At least one of the schemes offered gives a model that runs within the tolerance of its precision."""
        jobs = list(_quantizing(self.backend))
        if not jobs:
            pytest.skip("it offers to quantize nothing that can be made and run here")
        problems = []
        for offer, transform, way in jobs:
            for scheme in offer.schemes:
                found = _quantization_problems(self.backend, transform, way, scheme)
                if not found:
                    return
                problems += found
        pytest.fail("\n".join(problems))


def _needs_files(subject: Subject) -> None:
    if subject.way.is_eager:
        pytest.skip("the eager model stays in its process; the ways by files are tried")


def _files_to_damage(artifact: Artifact) -> list[str]:
    """Return the file to open, and the largest, which holds the weights."""
    largest = max(artifact.files, key=lambda name: (artifact.path / name).stat().st_size)
    return list(dict.fromkeys((artifact.files[0], largest)))


def _damaged(artifact: Artifact, file: str, damage: str) -> Artifact:
    folder = scratch() / "damaged"
    shutil.copytree(artifact.path, folder)
    path = folder / file
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(np.random.default_rng(4).bytes(max(len(whole), 64)))
    return replace(artifact, path=Path(folder))


def _quantizing(backend: str) -> Iterator[tuple[Offer, Transform, Way]]:
    """Yield offers to quantize, with a way that exports their input format and a session for their output format."""
    supports = manager().supports(detect())
    support = supports.get(backend)
    for offer in support.offers if support else ():
        for transform in offer.quantizes:
            for way in ways(supports, Target()) if offer.schemes else ():
                if not way.transforms and way.exported == transform.takes and way.format == transform.gives:
                    yield offer, transform, way
                    break


def _quantization_problems(backend: str, transform: Transform, way: Way, scheme: str) -> list[str]:
    """Return the problems of one scheme, on the model with the fewest; the first without any suffices."""
    found: list[list[str]] = []
    config = QuantizeConfig.named(scheme)
    for kind in KINDS:
        made = model(kind)
        label = f"{transform.takes}, scheme {scheme}, {kind}"
        try:
            artifact = manager().quantize(
                QuantizeRequest(
                    backend=backend,
                    artifact=exported(manager(), way, kind, way.routes[0]),
                    config=config,
                    hardware=detect(),
                    output=scratch(),
                    calibration=[made.draw(seed) for seed in range(30, 46)],
                    source=made.source,
                )
            )
            subject = Subject(
                plugins=manager(), way=way, model=made, artifact=replace(artifact, precision=config.weights)
            )
            problems = disagreements(subject)
            if not problems:
                return []
            found.append([f"{label}: {problem}" for problem in problems])
        except OptimumError as error:
            found.append([f"{label}: {error}"])
    return min(found, key=len)
