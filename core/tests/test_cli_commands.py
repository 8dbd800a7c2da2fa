"""Verbs that other distributions bring: listed from metadata, imported when run, and never in the way of core's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from optimum_core.cli.app import app
from optimum_core.errors import PluginError

Install = Callable[..., None]
_CODE = """
def greet(name: str, loud: bool = False) -> None:
    \"\"\"Say hello.\"\"\"
    print(f"hello {name.upper() if loud else name}")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with entry points of this group, as metadata and a module on the search path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(distribution: str, code: str = _CODE, **verbs: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "".join(f"{verb} = {target}\n" for verb, target in verbs.items())
        (folder / "entry_points.txt").write_text(f"[optimum.commands]\n{lines}")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def test_an_installed_verb_runs_and_is_listed_without_being_imported(install: Install) -> None:
    install("acme-verbs", greet="acme_verbs:greet")
    listed = CliRunner().invoke(app, ["--help"])
    assert "greet" in listed.output and "Brought by acme-verbs." in listed.output
    assert "acme_verbs" not in sys.modules
    done = CliRunner().invoke(app, ["greet", "you", "--loud"])
    assert (done.exit_code, done.output) == (0, "hello YOU\n")
    assert "Say hello." in CliRunner().invoke(app, ["greet", "--help"]).output


def test_cores_own_verbs_stay(install: Install) -> None:
    install("acme-verbs", doctor="acme_verbs:greet")
    assert "acme" not in CliRunner().invoke(app, ["doctor", "--help"]).output


@pytest.mark.parametrize(
    ("code", "why"), [("import nothing_at_all", "cannot be imported"), ("greet = 5", "is a int and no function")]
)
def test_a_broken_verb_names_its_distribution(code: str, why: str, install: Install) -> None:
    install("acme-verbs", code, greet="acme_verbs:greet")
    with pytest.raises(PluginError, match=rf"command 'greet' \(acme-verbs\)(.|\n)*{why}(.|\n)*upgrade acme-verbs"):
        CliRunner().invoke(app, ["greet", "you"], catch_exceptions=False)


def test_two_distributions_cannot_bring_one_verb(install: Install) -> None:
    install("acme-verbs", greet="acme_verbs:greet")
    install("other-verbs", greet="other_verbs:greet")
    with pytest.raises(PluginError, match="acme-verbs and other-verbs both bring it"):
        CliRunner().invoke(app, ["greet", "you"], catch_exceptions=False)
