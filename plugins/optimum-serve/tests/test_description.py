"""Requests drawn from the server's own description: none makes it fail, and answers are as they are described."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

LIMITS = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def _operations(live: Any) -> list[Any]:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def test_requests_drawn_from_the_description_are_answered_or_refused(live: Any) -> None:
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    answered: set[int] = set()

    def ask(case: Any) -> None:
        answer = case.call()
        answered.add(answer.status_code)
        # 501: no model here does that, 503: one is being opened; both are told in words.
        assert answer.status_code < 500 or answer.status_code == 501, f"{case.as_curl_command()}\n{answer.text}"
        assert "Traceback" not in answer.text
        case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance])

    for operation in _operations(live):
        draw: Any = given(operation.as_strategy())
        LIMITS(draw(ask))()
    assert {200, 422} <= answered
