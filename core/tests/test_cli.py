"""The real command, in processes of its own: what it writes where, and how it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from optimum_core.cache import CACHE_DIR_VARIABLE, Cache
from optimum_core.plugins import DISABLED_ENV, GROUP, STRICT_ENV

COMMAND = (sys.executable, "-m", "optimum_core.cli")
HEAVY = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "pydantic")


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """A user's own corner: home directory, cache, and a folder of installed distributions."""

    path: Path

    @property
    def cache(self) -> Cache:
        return Cache(self.path / "cache")

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPTIMUM_", "HF_"))}
        return kept | {
            "HOME": str(self.path),
            "USERPROFILE": str(self.path),
            CACHE_DIR_VARIABLE: str(self.path / "cache"),
            "PYTHONPATH": os.pathsep.join([str(self.path / "site"), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUTF8": "1",
            "COLUMNS": "80",
            **more,
        }

    def run(self, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=self.environment(more),
            timeout=500,
            check=False,
        )

    def install(self, backend: str, source: str, *, dist: str = "acme-backend") -> None:
        """A distribution of one module and one entry point."""
        site, module = self.path / "site", f"module_of_{backend}"
        info = site / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{backend} = {module}\n", encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    path = tmp_path / "alice-smith"
    path.mkdir()
    return Home(path=path)


def keep(cache: Cache, key: str, size: int, describe: str = "") -> Path:
    def make(folder: Path) -> None:
        (folder / "model").write_bytes(b"x" * size)

    return cache.build("export", key, make, describe=describe)


def plugins(home: Home, **environment: str) -> dict[str, dict[str, Any]]:
    done = home.run("plugins", "--json", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return {plugin["name"]: plugin for plugin in json.loads(done.stdout)}


def test_plugins_as_json_have_every_field_of_the_schema(home: Home) -> None:
    torch = plugins(home)["torch"]
    assert list(torch) == [
        "name", "distribution", "version", "status", "error", "why", "remedy", "hooks", "imports", "offers",
        "limitations", "versions", "foreign", "generating_extras",
    ]  # fmt: skip
    assert torch["status"] == "ready" and torch["distribution"] == "optimum-core"
    assert "probe" in torch["hooks"]


def test_what_a_plugin_prints_stays_out_of_the_json(home: Home) -> None:
    home.install(
        "acme",
        """
        print("loading acme")
        from optimum_core import hookimpl
        from optimum_core.types import Support

        @hookimpl
        def probe(hardware):
            print("probing acme")
            return Support()
        """,
    )
    for command in ("plugins", "doctor"):
        done = home.run(command, "--json")
        assert done.returncode == 0 and json.loads(done.stdout)
        assert done.stderr.split("\n")[:2] == ["loading acme", "probing acme"]


def test_a_broken_plugin_is_shown_beside_the_others_and_is_no_failure(home: Home) -> None:
    home.install("acme", "import surely_not_installed")
    acme = plugins(home)["acme"]
    assert acme["status"] == "broken" and acme["offers"] == []
    assert "No module named 'surely_not_installed'" in acme["error"]
    done = home.run("plugins")
    assert done.returncode == 0
    assert re.search(r"✗ acme +acme-backend 1\.2  broken", done.stdout)
    assert "ModuleNotFoundError" in done.stdout and f"{DISABLED_ENV}=acme" in done.stdout
    assert "✓ onnx" in done.stdout or "– onnx" in done.stdout


def test_a_plugin_whose_probe_fails_is_shown_as_broken(home: Home) -> None:
    home.install(
        "acme",
        """
        from optimum_core.hookspecs import hookimpl

        @hookimpl
        def probe(hardware):
            raise RuntimeError("no driver")
        """,
    )
    acme = plugins(home)["acme"]
    assert acme["status"] == "broken" and "no driver" in acme["error"]


def test_a_plugin_that_can_do_nothing_here_says_why_and_what_to_do(home: Home) -> None:
    home.install(
        "acme",
        """
        from optimum_core.hookspecs import hookimpl
        from optimum_core.types import Limitation, Support

        @hookimpl
        def probe(hardware):
            return Support(limitations=(Limitation(what="run", reason="no \\x1b[31mchip", remedy="buy one"),))
        """,
    )
    done = home.run("plugins")
    assert re.search(r"– acme +acme-backend 1\.2  nothing on this machine", done.stdout)
    assert "cannot run: no ?[31mchip" in done.stdout, "a plugin's text steers the terminal"
    assert "→ buy one" in done.stdout


def test_a_disabled_plugin_is_shown_as_such(home: Home) -> None:
    found = plugins(home, **{DISABLED_ENV: "torch"})
    assert found["torch"]["status"] == "disabled" and found["torch"]["offers"] == []


def test_strict_plugins_make_the_command_fail_with_the_three_parts(home: Home) -> None:
    home.install("acme", "import surely_not_installed")
    done = home.run("plugins", "--json", **{STRICT_ENV: "1"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: backend 'acme' (acme-backend 1.2): cannot be imported")
    assert "\n  What to do: reinstall" in done.stderr and "Traceback" not in done.stderr


def test_pages_keep_to_the_width_and_to_ascii(home: Home) -> None:
    done = home.run("doctor", PYTHONIOENCODING="ascii", PYTHONUTF8="0", NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["plugins", "--json"], ["plugins"], ["--version"]])
def test_the_quick_commands_import_nothing_heavy(home: Home, arguments: Sequence[str]) -> None:
    heavy = HEAVY if arguments == ["plugins"] else (*HEAVY, "rich")
    program = f"""
import atexit, sys
from optimum_core.cli import main
atexit.register(lambda: sys.stderr.write(",".join(name for name in {heavy!r} if name in sys.modules)))
sys.argv = ["optimum-core", *{list(arguments)!r}]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=home.environment({}), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_tells_versions_and_settings_but_nothing_private(home: Home) -> None:
    done = home.run("doctor", "--json", OPTIMUM_ACME_TOKEN="hunter2", HF_HUB_OFFLINE="1", OPTIMUM_X=f"{home.path}/x")
    assert done.returncode == 0, done.stderr
    page = json.loads(done.stdout)
    assert page["environment"] == {
        CACHE_DIR_VARIABLE: f"~{os.sep}cache",
        "HF_HUB_OFFLINE": "1",
        "OPTIMUM_ACME_TOKEN": "(set, not shown)",
        "OPTIMUM_X": "~/x",
    }
    assert page["versions"]["pluggy"] and page["hardware"]["cpu"]["usable_cores"] >= 1
    assert (page["cache"], page["cache_entries"], page["cache_size"]) == (f"~{os.sep}cache", 0, 0)
    for text in (done.stdout, home.run("doctor", OPTIMUM_ACME_TOKEN="hunter2").stdout):
        assert "alice" not in text and "hunter2" not in text


def test_cache_list_tells_sizes_and_the_total(home: Home) -> None:
    keep(home.cache, "one", 2048, "bert: onnx")
    keep(home.cache, "two", 1024)
    done = home.run("cache", "list")
    assert "2.0 KiB  bert: onnx" in done.stdout and "3.0 KiB  2 entries in" in done.stdout
    listed = json.loads(home.run("cache", "list", "--json").stdout)
    assert listed["size"] == 3072
    assert [(entry["key"], entry["size"]) for entry in listed["entries"]] == [("one", 2048), ("two", 1024)]


def test_cache_clear_asks_and_removes_only_what_was_meant(home: Home) -> None:
    old = keep(home.cache, "old", 2048).parent
    new = keep(home.cache, "new", 1024).parent
    os.utime(old / "entry.json", (0, 0))
    refused = home.run("cache", "clear", stdin="n\n")
    assert refused.returncode == 0 and "Remove 2 entries (3.0 KiB)" in refused.stderr and old.exists()
    unattended = home.run("cache", "clear")
    assert unattended.returncode == 1 and "pass --yes" in unattended.stderr and old.exists()
    done = home.run("cache", "clear", "--older-than", "7d", stdin="y\n")
    assert done.returncode == 0 and "Remove 1 entry (2.0 KiB)" in done.stderr and "freed" in done.stdout
    assert (old.exists(), new.exists()) == (False, True)
    assert home.run("cache", "clear", "--yes").stderr == ""
    assert not new.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["plugins", "--nonsense"],
        ["cache", "clear", "--older-than", "7 moons"],
        ["accelerate", "model", "out", "--shapes", "1x0"],
        ["accelerate", "model", "out", "--option", "threads"],
        ["accelerate", "model"],
        ["report", "out", "--json", "--markdown"],
    ],
)
def test_wrong_usage_exits_with_2(home: Home, arguments: Sequence[str]) -> None:
    done = home.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr and arguments[-1].split("=")[0].lstrip("-").split()[0] in done.stderr.lower()


@pytest.mark.parametrize("command", [[], ["plugins"], ["accelerate"], ["report"], ["cache"], ["cache", "list"]])
def test_help_is_a_letter_away(home: Home, command: Sequence[str]) -> None:
    done = home.run(*command, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: optimum-core" in done.stdout


def test_the_package_itself_is_the_command_and_completes(home: Home) -> None:
    asked = [sys.executable, "-m", "optimum_core", "--show-completion", "bash"]
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # there is no shell above the tests
    done = subprocess.run(asked, capture_output=True, encoding="utf-8", env=home.environment(told), check=False)
    assert done.returncode == 0 and "complete -o default -F" in done.stdout


def test_a_place_that_is_taken_is_refused_before_the_model_is_looked_at(home: Home) -> None:
    (home.path / "out").mkdir()
    (home.path / "out" / "file").write_text("mine", encoding="utf-8")
    for place, why in (("out", "the directory is not empty"), ("out/file", "is a file"), ("out/file/x", "is a file")):
        done = home.run("accelerate", "surely/not-there", str(home.path / place))
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr and "What to do: choose another place" in done.stderr
        assert "not-there" not in done.stderr and "Traceback" not in done.stderr


def test_verbose_shows_the_traceback_before_the_message(home: Home) -> None:
    place = str(home.path / "nowhere")
    plain, verbose = home.run("report", place), home.run("report", place, "--debug")
    assert plain.returncode == verbose.returncode == 1
    assert plain.stderr.startswith("error: artifact ") and "Traceback" not in plain.stderr
    assert "Traceback" in verbose.stderr and verbose.stderr.endswith(plain.stderr)


@pytest.mark.parametrize("arguments", [["doctor"], ["plugins", "--json"]])
def test_a_reader_that_goes_away_gets_no_traceback(home: Home, arguments: Sequence[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environment({})
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=300)
    assert complaint == b""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_exits_with_130_and_removes_nothing(home: Home) -> None:
    kept = keep(home.cache, "one", 10)
    process = subprocess.Popen(
        [*COMMAND, "cache", "clear"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=home.environment({}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    with process:
        assert process.stderr is not None
        asked = b""
        while not asked.endswith(b"[y/N] "):
            asked += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        complaint = process.stderr.read()
        assert process.wait(timeout=300) == 130
    assert b"Traceback" not in complaint and kept.exists()


def test_the_command_accelerates_saves_and_reports(home: Home) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    model, out = home.path / "tiny-bert", home.path / "out"
    transformers.BertForSequenceClassification(config).save_pretrained(model)
    done = home.run("accelerate", str(model), str(out), "--target", "torch", "--shapes", "1x4,2x8", "--budget", "0")
    assert done.returncode == 0, done.stderr
    assert "✓ measure" in done.stderr and "… measure" in done.stderr and "✓" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Saved to {out}"
    page = home.run("report", str(out))
    assert "1x4" in page.stdout and "2x8" in page.stdout and "Tuned on" in page.stdout, page.stderr
    picture = home.path / "pictures" / "new" / "bars.svg"
    told = json.loads(home.run("report", str(out), "--json", "--svg", str(picture)).stdout)
    assert "</svg>" in picture.read_text(encoding="utf-8")
    refused = home.run("report", str(out), "--svg", str(out / "optimum.json" / "bars.svg"))
    assert refused.returncode == 1 and "cannot be written" in refused.stderr and "Traceback" not in refused.stderr
    assert told["backend"] == "torch" and told["report"]["workload"] == ["1x4", "2x8"]
    assert [item["outcome"] for item in told["report"]["candidates"]].count("chosen") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("model", ""), 2, "it is empty"),
        (("", "out"), 2, "it is empty"),
        (("model", "{home}/sealed/deep/out"), 1, "sealed cannot be written"),
        (("model", "{home}/sealed"), 1, "sealed cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    arguments: tuple[str, str], code: int, said: str, home: Home
) -> None:
    sealed = home.path / "sealed"
    sealed.mkdir(mode=0o555)
    if os.access(sealed, os.W_OK):  # for an administrator every directory is open
        sealed.rmdir()
        sealed.symlink_to("/proc", target_is_directory=True)
        arguments = (arguments[0], arguments[1].replace("{home}/sealed/", "{home}/sealed/self/"))
        said = said.replace("sealed cannot be written", "cannot be written|not empty")
    done = home.run("accelerate", *(argument.format(home=home.path) for argument in arguments))
    assert done.returncode == code
    assert re.search(said, done.stderr)
    assert "hub" not in done.stderr  # the model was not looked for


@pytest.mark.parametrize("command", ["plugins", "doctor"])
def test_a_name_that_switches_nothing_off_is_told(command: str, home: Home) -> None:
    done = home.run(command, "--json", **{DISABLED_ENV: "torhc,onnx"})
    told = done.stderr.splitlines()
    assert told == [f"{DISABLED_ENV} names 'torhc', and no backend has this name; did you mean 'torch'?"]
    assert json.loads(done.stdout)
