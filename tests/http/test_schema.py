"""Requests made from the OpenAPI document by schemathesis: no answer is a fault of the server, all are as the document says."""

from __future__ import annotations

import itertools

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
EXAMPLES = 8  # of each address; a minute in all


@pytest.fixture
def api_schema(served):
    document = served.client(None).get(f"{served.url}/api/openapi.json").json()
    return schemathesis.openapi.from_dict(document)


schema = schemathesis.pytest.from_fixture("api_schema")
_turn = itertools.cycle(("reader", "editor", "admin"))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_no_request_made_from_the_document_breaks_the_server_or_its_promises(case, served) -> None:
    token = served.tokens[next(_turn)]
    answer = case.call(base_url=f"{served.url}/api", headers={"Authorization": f"Bearer {token}"}, timeout=120)
    case.validate_response(
        answer,
        checks=[
            checks.not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
