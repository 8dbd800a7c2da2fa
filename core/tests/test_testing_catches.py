"""The conformance kit fails where a backend is wrong, and only there: bad backends, each with one fault.

They are installed as distributions into a directory, and the kit runs on all of them in one process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from faulty_backends import ALL, BASES, RACES, STUB_TESTS
from optimum_core.testing.contract import ContractTests


def _class_name(fault: str) -> str:
    return "Test" + fault.title().replace("_", "")


def _install(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}_backend.py").write_text(source.replace('BACKEND = "good"', f'BACKEND = "{name}"'), "utf-8")
    metadata = folder / f"{name}_backend-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n", "utf-8")
    (metadata / "entry_points.txt").write_text(f"[optimum.backends]\n{name} = {name}_backend\n", "utf-8")


#: Tests of hundreds of calls: they run on the faults that show in a row of calls, and on the backend without fault.
_ROWS = {
    "test_views_outlive_their_outputs",
    "test_every_call_of_many_is_right",
    "test_threads_do_not_disturb_each_other",
    "test_refused_calls_harm_no_others",
}
#: What `test_bad.py` begins with. A fault of the probe or the hooks is looked for in the tests of the contract, one of
#: the sessions in those of inference, either in those of robustness; the backend without fault passes all.
_HEAD = """from optimum_core.testing import BackendSuite
from optimum_core.testing.contract import ContractTests
from optimum_core.testing.inference import InferenceTests


def without(tests):
    return dict.fromkeys(name for name in vars(tests) if name.startswith("test_"))


class OfContract(BackendSuite):
    locals().update(without(InferenceTests))


class OfSessions(BackendSuite):
    locals().update(without(ContractTests))


class OfSingleCalls(OfSessions):
    locals().update(dict.fromkeys({rows}))"""


def _base(caught_by: set[str]) -> str:
    if not caught_by:
        return "BackendSuite"
    if caught_by <= vars(ContractTests).keys():
        return "OfContract"
    return "OfSessions" if caught_by & _ROWS else "OfSingleCalls"


def _write(folder: Path) -> None:
    lines = [_HEAD.replace("{rows}", repr(sorted(_ROWS)))]
    for source, faults in BASES:
        for fault, (old, new, caught_by) in faults.items():
            assert old in source, f"{fault}: nothing to replace"
            _install(folder, fault, source.replace(old, new, 1) if old else source)
            lines.append(f"class {_class_name(fault)}({_base(caught_by)}):\n    backend = {fault!r}")
    # A gap that is none any more, and one that still is.
    lines.append(
        "class TestGaps(OfContract):\n    backend = 'takes_any_option'\n"
        "    gaps = {'test_probing_twice_gives_the_same': 'x', 'test_an_unknown_option_is_refused': 'y'}"
    )
    (folder / "test_bad.py").write_text("\n\n\n".join(lines), "utf-8")


Outcomes = dict[str, dict[str, str]]


def _outcomes(report: Path) -> Outcomes:
    """By class and test the worst outcome of its parameters: failed, passed or skipped."""
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        tests = found.setdefault((case.get("classname") or "").rpartition(".")[2], {})
        name = (case.get("name") or "").partition("[")[0]
        tests[name] = min(outcome, tests.get(name, outcome))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    folder = tmp_path_factory.mktemp("bad")
    _write(folder)
    report = folder / "report.xml"
    slow = " or ".join(STUB_TESTS)
    chosen = f"(Stub and ({slow})) or (not Stub and not vision and not ({slow}) and (scheme or not Quantizer))"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "-p",
        "optimum_core.testing.fixtures",
        f"--junitxml={report}",
        "-k",
        chosen,
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of other libraries take seconds to import
    done = subprocess.run(
        [*command, "test_bad.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert report.is_file(), done.stdout + done.stderr
    return _outcomes(report)


@pytest.mark.parametrize("fault", ALL)
def test_a_fault_fails_its_tests_and_no_others(outcomes: Outcomes, fault: str) -> None:
    expected = ALL[fault][2]
    failed = {name for name, outcome in outcomes[_class_name(fault)].items() if outcome == "failed"}
    # Threads that share what one fault shares may disturb each other, or not: it depends on their luck.
    assert failed - RACES.get(fault, set()) == expected


def test_what_is_compiled_for_elsewhere_is_compared(outcomes: Outcomes) -> None:
    """One kind of model is skipped: its class could not be found again in a checkpoint. The other is not."""
    assert outcomes[_class_name("compiler_none")]["test_it_agrees_with_eager_at_unseen_shapes"] == "passed"


def test_what_runs_without_fault_is_not_skipped(outcomes: Outcomes) -> None:
    skipped = {name for name, outcome in outcomes[_class_name("none")].items() if outcome == "skipped"}
    assert skipped == {"test_some_quantization_is_right", "test_every_scheme_that_it_runs_is_right"}


def test_a_gap_excuses_until_it_is_closed(outcomes: Outcomes) -> None:
    found = outcomes["TestGaps"]
    assert found["test_an_unknown_option_is_refused"] == "skipped"
    assert found["test_probing_twice_gives_the_same"] == "failed"
