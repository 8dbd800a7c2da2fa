"""The result of the conformance kit as data: by capability what passed, and each broken promise with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optimum_core.testing.promises import CAPABILITIES, PROMISES

PromiseOutcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One test of the kit on one way.

    Attributes:
        test: its name, and `way`, what it was run on; empty where it needs no way.
        detail: the failure, or the reason why it was skipped.
    """

    test: str
    way: str
    outcome: PromiseOutcome
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorecard:
    """The result of the kit on a backend.

    Attributes:
        distribution: the distribution that ships it, with its version.
        contract: the version of the contract, and `kit`, the version of optimum-core, whose tests these are.
        versions: of the libraries that its results depend on.
    """

    backend: str
    distribution: str
    contract: str
    kit: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether something was tested, and no promise is broken."""
        return self.counts("passed") > 0 and not self.counts("failed")

    @property
    def complete(self) -> bool:
        """Whether every promise was tested, or skipped for a reason."""
        return {check.test for check in self.checks} >= set(PROMISES)

    def counts(self, outcome: PromiseOutcome, capability: str | None = None) -> int:
        """Return the number of checks with an outcome, of one capability or of all."""
        return sum(
            check.outcome == outcome and capability in (None, PROMISES[check.test].capability) for check in self.checks
        )

    def to_json(self) -> str:
        """Return everything as JSON, with the promise of each failure."""
        tree: dict[str, Any] = {**asdict(self), "passed": self.passed, "complete": self.complete}
        tree["capabilities"] = {name: self._row(name) for name in CAPABILITIES}
        tree["checks"] = [{**asdict(check), **asdict(PROMISES[check.test])} for check in self.checks]
        return json.dumps(tree, indent=2, default=dict)

    def to_markdown(self) -> str:
        """Return a page: a table of capabilities, then what is broken and what was not tested, by the causes."""
        with_versions = "".join(f", {name} {version}" for name, version in self.versions.items())
        whole = "the contract" if self.complete else "what was tested of the contract"
        verdict = f"keeps {whole}" if self.passed else "does not keep the contract"
        return "\n".join(
            [
                f"# Backend `{self.backend}` {verdict}",
                "",
                f"{self.distribution}{with_versions}; contract {self.contract}, kit of optimum-core {self.kit}.",
                "",
                "| capability | passed | failed | skipped |",
                "|---|---|---|---|",
                *(f"| {name} | {' | '.join(map(str, self._row(name).values()))} |" for name in CAPABILITIES),
                *_section("Broken promises", self._of("failed")),
                *_section("Not tested", self._of("skipped")),
                "",
            ]
        )

    def _row(self, capability: str) -> dict[str, int]:
        return {name: self.counts(name, capability) for name in ("passed", "failed", "skipped")}

    def _of(self, outcome: PromiseOutcome) -> list[str]:
        """Return a line for each test with an outcome; those of one cause stand together, below it."""
        causes: dict[str, dict[str, list[str]]] = {}
        for check in self.checks:
            if check.outcome == outcome:
                ways = causes.setdefault(check.detail, {}).setdefault(check.test, [])
                ways.extend(filter(None, [check.way]))
        return [text for detail, tests in causes.items() for text in _of_one_cause(detail, tests)]


def _of_one_cause(detail: str, tests: Mapping[str, Sequence[str]]) -> list[str]:
    told = "".join(f"\n  > {line}".rstrip() for line in detail.splitlines())
    if len(tests) == 1:
        return [f"- {_named(test, ways)}\n{told}" for test, ways in tests.items()]
    head = f"- {len(tests)} promises, of one cause:\n{told}\n"
    return [head, *(f"  - {_named(test, ways)}".replace("\n", "\n  ") for test, ways in tests.items()), ""]


def _named(test: str, ways: Sequence[str]) -> str:
    on = f" on {', '.join(ways)}" if ways else ""
    return f"**{PROMISES[test].words}**: docs/{PROMISES[test].where}\n  `{test}`{on}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []
