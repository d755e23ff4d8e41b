"""The running service under requests that schemathesis makes of its OpenAPI document, fitting ones and others.

Whatever is sent, the answer is one that the document has, and no failure of the service.
"""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from deployments.protocols.openapi.document import document
from tests.local_graph import Graph

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TIMEOUT_S = 30.0
# Of each operation and mode. Bodies have more to get wrong than paths.
REQUESTS = {"get": 6, "post": 25}
# The operations do not depend on the models; what is sent follows the document of the service itself.
OPERATIONS = [
    pytest.param(method, path, mode, id=f"{mode.value}-{operation['operationId']}")
    for path, methods in json.loads(document({"shapes": None}, {"shapes": {}}))["paths"].items()
    for method, operation in methods.items()
    # Other tests have the models that these give up and look for; and a heat map goes on when its caller has left, so
    # that the next one is told to come again.
    if "/v2/repository/models/" not in path and path != "/explain"
    for mode in GenerationMode
    # Without either there is nothing that could not fit.
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & operation.keys()
]


@pytest.fixture(scope="module")
def api(graph: Graph) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{graph.url}/openapi.json")


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_any_request_is_answered_as_the_document_says(
    api: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation: Any = api[path][method]

    @settings(
        max_examples=REQUESTS[method],
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),  # No shrinking: it would take longer than all the rest.
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def ask(case: Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, timeout=TIMEOUT_S)

    ask()
