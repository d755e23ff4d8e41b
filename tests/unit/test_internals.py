"""What no answer says, whatever is sent; and that nothing is unpickled that a client or a model file brings."""

import ast
import asyncio
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.image_files import encode, noise
from deployments.errors import ApertureError
from deployments.imaging import preprocess
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.bytes_plane import BytesPlane, base64_of, send
from tests.unit.ingress_app import service

ROOT = Path(__file__).resolve().parents[2]

INTERNALS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|deployments[./]|ray[./]serve|starlette|pydantic|numpy|orjson|PIL\b|zlib\."
    r"|object at 0x|\b[A-Z][a-z]+Error\b|/home/|/usr/|/tmp/|" + re.escape(f"{ROOT}/")
)
PATHS = (
    *("/predict", "/", "/v2/models/shapes/infer", "/v1/models/shapes:predict", "/v1/models/shapes:classify"),
    *(
        "/v2/repository/index",
        "/v2/models/shapes/versions/x/infer",
        "/v1/models/shapes/labels/x:predict",
        "/v2/models//x",
    ),
)
PIECES = (
    *('{"', '"inputs"', ":", "[", "]", "}", ",", '"', "null", "NaN", "-1", "1e999", "9" * 30, "\\ud800", "\x00", "ü"),
    *(
        '"instances"',
        '"image"',
        '"images"',
        '"input_data"',
        '"b64"',
        '"shape"',
        '"datatype"',
        '"BYTES"',
        '"parameters"',
    ),
)
TYPES = (
    "application/json",
    "multipart/form-data",
    "multipart/form-data; boundary=\x22",
    "image/png",
    "text/html; x",
    "",
)
ENCODINGS = ("gzip", "deflate", "br", "identity", "gzip, gzip", "")


def hostile_requests(seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies that are nearly JSON or nothing at all, under headers that fit them or do not."""
    chance = random.Random(seed)
    for _ in range(count):
        text = "".join(chance.choices(PIECES, k=chance.randrange(12)))
        body = chance.choice([text.encode(errors="replace"), chance.randbytes(40), f'{{"inputs":[{text}'.encode()])
        headers = {
            "content-type": chance.choice(TYPES),
            "content-encoding": chance.choice(ENCODINGS) if chance.random() < 0.3 else "identity",
            "accept": chance.choice(["*/*", "application/x-ndjson"]),
        }
        if chance.random() < 0.3:
            headers["inference-header-content-length"] = chance.choice(["0", "5", "-1", "x", "9" * 30])
        yield (
            chance.choice(PATHS),
            {"content": body, "headers": headers, "params": {"top_k": chance.choice(["1", "x"])}},
        )


def test_no_error_tells_of_our_insides() -> None:
    async def ask() -> None:
        app = service()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            for path, request in hostile_requests(seed=1, count=400):
                response = await client.post(path, **request)
                assert response.status_code in {200, 400, 404, 405, 413, 415}, (path, request, response.text)
                assert not INTERNALS.search(response.text), (path, request, response.text)
                if response.is_error:
                    assert response.json().keys() == {"error", "code", "request_id"}

    asyncio.run(ask())


@pytest.mark.parametrize("path", PATHS[:5])
def test_a_failure_inside_tells_its_id_and_nothing_more(path: str) -> None:
    photo = base64_of(b"photo")
    bodies: dict[str, Any] = {
        "/predict": {"image": photo},
        "/": {"inputs": photo},
        "/v2/models/shapes/infer": {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [photo]}]},
        "/v1/models/shapes:predict": {"instances": [{"b64": photo}]},
        "/v1/models/shapes:classify": {"examples": [{"image/encoded": {"b64": photo}}]},
    }
    failure = RuntimeError("/usr/lib/secret.py: 'password'")
    response = send("POST", path, BytesPlane(failure=failure), json=bodies[path])
    assert response.status_code == 500
    assert response.json() == {
        "error": "The request failed because of an internal error.",
        "code": "internal",
        "request_id": "test-id",
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_no_refusal_of_an_image_tells_of_our_insides(kind: str) -> None:
    picture, chance = encode(noise(40, 30), kind), random.Random(kind)
    for _ in range(25):
        broken = bytearray(picture[: chance.randrange(4, len(picture))])
        for _ in range(chance.randrange(4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert not INTERNALS.search(refusal_of(bytes(broken)))


def refusal_of(image: bytes) -> str:
    try:
        preprocess(image, PreprocessingSpec(), Limits())
    except ApertureError as refusal:
        return refusal.message
    return ""


# Nothing is unpickled

# Modules that make objects of whatever they read.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas"}
# Names without a way to load anything.
HARMLESS = {"pickle.UnpicklingError"}
SOURCES = [*sorted((ROOT / "deployments").rglob("*.py")), ROOT / "graph.py"]


def unpickles(source: str) -> list[str]:
    """What in the source could make objects of a file or of bytes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLERS:
            found += [name for name in (f"{node.module}.{alias.name}" for alias in node.names) if name not in HARMLESS]
        elif isinstance(node, ast.Call):
            found += _unsafe(ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords})
    return found


def _unsafe(function: str, arguments: dict[str | None, str]) -> list[str]:
    rules: dict[str, Callable[[], bool]] = {
        "torch.load": lambda: arguments.get("weights_only") != "True",
        "np.load": lambda: arguments.get("allow_pickle", "False") != "False",
        "yaml.load": lambda: True,
        "yaml.unsafe_load": lambda: True,
        "torch.jit.load": lambda: True,
        "eval": lambda: True,
        "exec": lambda: True,
    }
    return [function] if function in rules and rules[function]() else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled_that_a_client_or_a_model_file_brings(path: Path) -> None:
    assert unpickles(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as safe",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "def f():\n    return eval(text)",
    ],
)
def test_the_walk_sees_what_could_unpickle(source: str) -> None:
    assert len(unpickles(source)) == 1


def test_the_walk_lets_the_safe_forms_pass() -> None:
    source = "torch.load(path, weights_only=True)\nnp.load(path)\nmodel.eval()\nfrom pickle import UnpicklingError"
    assert unpickles(source) == []
