"""Requests made from the OpenAPI document by schemathesis: no answer is a fault of the server, all are as the document says."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from atlas.http.verbs import VERBS

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
EXAMPLES = 8  # of each address; a minute in all


CHECKS = [checks.not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_no_request_made_from_the_document_breaks_the_server_or_its_promises(served) -> None:
    with served.client(None) as client:
        document = client.get(f"{served.url}/api/openapi.json").json()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    assert len(operations) > len(VERBS)
    seen: Counter[int] = Counter()
    for operation in operations:
        try_out(operation, served, seen)
    assert seen[200] > len(VERBS), seen  # the requests reach the verbs


def try_out(operation, served, seen: Counter[int]) -> None:
    turn = itertools.cycle(("reader", "editor", "admin"))

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def one(case) -> None:
        headers = {"Authorization": f"Bearer {served.tokens[next(turn)]}"}
        answer = case.call(base_url=f"{served.url}/api", headers=headers, timeout=120)
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    one()
