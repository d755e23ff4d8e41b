"""The OpenAPI document says what the service does: its routes, its answers, and examples that work as they stand."""

import asyncio
import json
import re
from typing import Any, cast

import httpx
import pytest
import schemathesis
from jsonschema_rs import Draft202012Validator
from starlette.routing import Match, Route

from deployments.messages import ModelInfo
from deployments.protocols.openapi.document import document
from deployments.protocols.openapi.parts import PICTURE, STATIC
from deployments.protocols.playground import pages as playground
from tests.unit.bytes_plane import expected_predictions, info
from tests.unit.ingress_app import StartingPlane, service
from tests.unit.versioned import replica, told

# Of the document itself.
UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/docs.js", "/docs/docs.css", "/docs/heart.jpg"}
PLAYGROUND = {route.path for route in playground.routes()}
# Off, as they are unless an operator says otherwise.
ADMINISTRATION = {"/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"}


def send(method: str, path: str, root_path: str = "", **request: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(service(labelled()), root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **request)

    return asyncio.run(exchange())


def labelled() -> StartingPlane:
    """Whose first model has a label."""
    return StartingPlane(models={"shapes": told(replica(3, labels=LABELLED)), "others": info("others", 4)})


def api_of(models: dict[str, ModelInfo | None], labels: dict[str, int] | None = None) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(document(models, {"shapes": labels or {}})))


LABELLED = {"stable": 3}
API = api_of(labelled().ready_models(), LABELLED)
OPERATIONS = {
    f"{method.upper()} {path}": (method, path, operation)
    for path, methods in API["paths"].items()
    for method, operation in methods.items()
}
# Files, which JSON cannot hold, have no examples: the picture is theirs.
EXAMPLES = {
    f"{operation['operationId']}-{media_type}-{name}": (operation, method, path, media_type, example)
    for method, path, operation in OPERATIONS.values()
    if path not in ADMINISTRATION
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items()
    for name, example in media.get("examples", {"picture": {}}).items()
}


def url_of(path: str, operation: dict[str, Any]) -> str:
    """With the examples of the path's parameters filled in."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    return path


def check_described(response: httpx.Response, operation: dict[str, Any]) -> None:
    """The status, the media type and the JSON of the response are what the document says of them."""
    described = operation["responses"][str(response.status_code)]
    if "$ref" in described:
        described = API["components"]["responses"][described["$ref"].rpartition("/")[2]]
    media = described["content"][response.headers["content-type"].split(";")[0]]
    if response.headers["content-type"] == "application/json":
        Draft202012Validator({**media["schema"], "components": API["components"]}).validate(response.json())


# Routes


def test_every_route_is_documented_and_every_documented_route_is_there() -> None:
    routes = [route for route in service().routes if isinstance(route, Route)]
    routes = [route for route in routes if route.path not in UNDOCUMENTED and not is_of_a_page(route)]
    matched = [
        [route for route in routes if route.matches(scope_of(method, url_of(path, operation)))[0] is Match.FULL]
        for method, path, operation in OPERATIONS.values()
    ]
    assert [name for name, found in zip(OPERATIONS, matched, strict=True) if not found] == []
    # The router takes the first.
    assert {id(found[0]) for found in matched} == set(map(id, routes))


def is_of_a_page(route: Route) -> bool:
    """Of the playground, which shares its path with a route that is described."""
    return "GET" in (route.methods or ()) and route.path in PLAYGROUND


def scope_of(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method.upper(), "path": path, "root_path": ""}


@pytest.mark.parametrize("path", sorted(UNDOCUMENTED))
def test_the_document_and_its_page_are_routes(path: str) -> None:
    assert send("GET", path).status_code == 200


def test_every_operation_has_an_id_of_its_own() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


def test_every_reference_of_the_document_has_its_target() -> None:
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', json.dumps(API, separators=(",", ":"))))
    assert len(references) > 20
    for reference in references:
        part = API
        for key in reference.split("/"):
            part = part[key]


def test_the_document_is_openapi() -> None:
    schemathesis.openapi.from_dict(API).validate()


@pytest.mark.parametrize("name", API["components"]["schemas"])
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": API["components"]})


@pytest.mark.parametrize("kind", ["responses", "schemas", "headers"])
def test_every_component_is_used(kind: str) -> None:
    text = json.dumps(API)
    assert [name for name in API["components"][kind] if f'"#/components/{kind}/{name}"' not in text] == []


# Examples


@pytest.mark.parametrize(("operation", "method", "path", "media_type", "example"), EXAMPLES.values(), ids=EXAMPLES)
def test_every_example_works_as_it_stands(
    operation: dict[str, Any], method: str, path: str, media_type: str, example: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"content": PICTURE, "headers": {"content-type": media_type}}
    if media_type == "multipart/form-data":
        (field,) = operation["requestBody"]["content"][media_type]["schema"]["properties"]
        request = {"files": [(field, ("heart.jpg", PICTURE)), (field, ("again.jpg", PICTURE))]}
    elif example:
        request["content"] = json.dumps(example["value"])
    response = send(method, url_of(path, operation), **request)
    assert response.status_code == 200, response.text
    check_described(response, operation)


def test_every_body_has_an_example() -> None:
    bodies = {
        operation["operationId"]
        for _, path, operation in OPERATIONS.values()
        if "requestBody" in operation and path not in ADMINISTRATION
    }
    assert {operation["operationId"] for operation, *_ in EXAMPLES.values()} == bodies
    assert len(bodies) > 3


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("GET")])
def test_every_get_answers_what_is_described(name: str) -> None:
    method, path, operation = OPERATIONS[name]
    response = send(method, url_of(path, operation))
    assert response.status_code == 200
    check_described(response, operation)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "{model}" in name])
def test_an_unknown_model_is_answered_as_described(name: str) -> None:
    method, path, operation = OPERATIONS[name]
    response = send(method, url_of(path.replace("{model}", "nothing"), operation), json={})
    assert response.status_code == 404
    check_described(response, operation)


def test_lines_are_described() -> None:
    response = send("POST", "/predict", content=PICTURE, headers={"accept": "application/x-ndjson"})
    check_described(response, OPERATIONS["POST /predict"][2])


def test_the_picture_is_a_small_photograph_that_is_classified() -> None:
    assert send("GET", "/docs/heart.jpg").content == PICTURE
    assert len(PICTURE) < 2048
    predictions = send("POST", "/predict", content=PICTURE).json()["predictions"]
    assert predictions == expected_predictions(PICTURE)


# Models


def test_the_models_are_the_choice_and_the_first_warm_one_with_encoded_images_is_the_example() -> None:
    models = {"late": None, "tensors": info("tensors", 1, ("INPUT",)), "shapes": info("shapes", 3)}
    (model, version, *_) = api_of(models)["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]["parameters"]
    assert (model["schema"]["enum"], model["example"]) == (["late", "tensors", "shapes"], "shapes")
    assert version["example"] == "3"


@pytest.mark.parametrize(
    "models", [{"late": None}, {"tensors": info("tensors", 1, ("INPUT",))}], ids=["late", "tensors"]
)
def test_without_a_model_for_encoded_images_the_document_has_no_examples_for_one(
    models: dict[str, ModelInfo | None],
) -> None:
    infer = api_of(models)["paths"]["/v2/models/{model}/infer"]["post"]
    assert "examples" not in infer["requestBody"]["content"]["application/json"]
    assert infer["parameters"][0]["schema"]["enum"] == list(models)


def test_the_document_is_current_when_a_model_has_become_warm() -> None:
    assert api_of({"shapes": None}) != api_of({"shapes": info("shapes", 3)}) != api_of({"shapes": info("shapes", 4)})


def test_the_label_of_the_examples_is_one_of_the_models_if_it_has_any() -> None:
    def label(labels: dict[str, int]) -> Any:
        paths = api_of({"shapes": info("shapes", 3)}, labels)["paths"]
        (_, parameter, *_) = paths["/v2/models/{model}/labels/{label}/infer"]["post"]["parameters"]
        return parameter.get("example")

    assert (label({"stable": 3, "canary": 2}), label({})) == ("canary", None)


NO_INFERENCE = (":regress", "/repository/")
INFERENCES = [name for name in OPERATIONS if name.startswith("POST") and not any(part in name for part in NO_INFERENCE)]


@pytest.mark.parametrize("name", INFERENCES)
def test_every_inference_is_described_with_its_routing_key_and_the_version_that_it_names(name: str) -> None:
    _, path, operation = OPERATIONS[name]
    assert {"$ref": "#/components/headers/x-model-version"} in operation["responses"]["200"]["headers"].values()
    (routing,) = [each for each in operation["parameters"] if each["name"] == "x-routing-key"]
    assert (routing["in"], routing["required"]) == ("header", False)
    assert path.startswith("/v") or {"version", "label"} <= {each["name"] for each in operation["parameters"]}


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "{model}" in name and "/repository/" not in name])
def test_the_headers_of_an_answer_are_those_that_are_described(name: str) -> None:
    method, path, operation = OPERATIONS[name]
    if "200" not in operation["responses"]:
        return
    (body, *_) = [example for other, *_, example in EXAMPLES.values() if other is operation] or [None]
    response = send(method, url_of(path, operation), json=body and body["value"])
    assert response.status_code == 200
    described = {header.lower() for header in operation["responses"]["200"]["headers"]}
    # x-request-id is Serve's, and x-cache that of models with a cache.
    assert described - {"x-request-id", "x-cache"} == set(response.headers) & (NAMED | {"server-timing"})


NAMED = {"x-model-version", "x-preprocessing-spec"}


# The page


def test_the_document_says_below_which_path_the_service_is() -> None:
    assert send("GET", "/openapi.json").json()["servers"] == [{"url": "/"}]
    below = send("GET", "/vision/openapi.json", root_path="/vision")
    assert below.json()["servers"] == [{"url": "/vision"}]


def test_the_page_works_below_any_path() -> None:
    # What it refers to is relative to where it is itself.
    page = send("GET", "/vision/docs", root_path="/vision").text
    references = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(references) == 4
    for reference in references:
        assert send("GET", f"/vision/{reference}", root_path="/vision").status_code == 200


def test_the_page_loads_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    page = (STATIC / "index.html").read_text() + (STATIC / "docs.css").read_text() + (STATIC / "docs.js").read_text()
    assert not re.search(r"https?://|(?<![:\"])//\w+\.|@import|url\(", page)
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page)


@pytest.mark.parametrize("path", sorted(UNDOCUMENTED - {"/openapi.json"}))
def test_the_page_is_served_with_the_strictest_policy(path: str) -> None:
    headers = send("GET", path).headers
    directives = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
    assert directives["default-src"] == "'none'"
    assert set(directives.values()) <= {"'none'", "'self'", "'script'"}
    assert headers["x-content-type-options"] == "nosniff"
