"""Every hook is documented with an example that parses, and is used in some test."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from optimum_core.hookspecs import Hooks

HOOKS = [name for name in vars(Hooks) if not name.startswith("_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_shows_an_example_that_parses(hook: str) -> None:
    text, _, example = (inspect.getdoc(getattr(Hooks, hook)) or "").partition("Example::\n")
    assert text.strip()
    functions = [node for node in ast.parse(textwrap.dedent(example)).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == [hook]
    taken = [argument.arg for argument in functions[0].args.args]
    assert taken == list(inspect.signature(getattr(Hooks, hook)).parameters)[1:]
    assert [ast.unparse(decorator) for decorator in functions[0].decorator_list] == ["hookimpl"]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_implemented_in_some_test(hook: str) -> None:
    implementation = re.compile(rf"@hookimpl\n\s*def {hook}\(")
    files = [path for path in Path(__file__).parent.rglob("*.py") if path != Path(__file__)]
    assert any(implementation.search(path.read_text(encoding="utf-8")) for path in files)
