"""The import rule of deployments/__init__.py, read off the source: imports go down only, and never sideways.

Model libraries stay inside engines, and Ray at levels 3 and up and in instruments.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LEVELS = {
    "deployments": 0,
    **dict.fromkeys(("errors", "messages", "resizing", "settings", "statistics", "deadlines", "draining"), 0),
    **dict.fromkeys(("dimensions", "histograms", "instruments", "trace_context"), 0),
    **dict.fromkeys(("imaging", "metrics", "batching", "gathering", "fetching", "repository", "weight_files"), 1),
    **dict.fromkeys(("workload", "admission", "access", "watchdog", "versions", "catalogue"), 1),
    **dict.fromkeys(("answer_cache", "answer_keys", "differences", "comparison", "promotion"), 1),
    **dict.fromkeys(("recent", "live_figures", "seen_area"), 1),
    **dict.fromkeys(("decode_cost", "decoder", "decoder_process", "decoding"), 1),
    **dict.fromkeys(("records", "request_log", "batch_metrics", "version_metrics"), 1),
    **dict.fromkeys(("tracing", "spans", "work_spans"), 1),
    **dict.fromkeys(("engines", "protocols"), 2),
    **dict.fromkeys(
        ("autoscaling", "routing", "hops", "dataplane", "edge", "model_client", "image_way", "served", "preparation"), 3
    ),
    **dict.fromkeys(("administration", "shadowing", "promotion_driver", "trial_metrics", "candidacy", "live_poll"), 3),
    **dict.fromkeys(("ingress", "preprocessor", "classifier"), 4),
    "graph": 5,
}
# What may import its equals: packages from inside themselves, and these.
SIDEWAYS = {
    "settings": {"errors"},
    "deadlines": {"errors"},
    "messages": {"settings", "errors", "statistics"},
    # What decodes in another process is what decodes.
    "imaging": {"decode_cost"},
    "decoder": {"imaging"},
    "decoder_process": {"decoder", "metrics"},
    "decoding": {"decode_cost", "decoder_process", "imaging", "metrics"},
    "batching": {"metrics"},
    "gathering": {"metrics"},
    "records": {"metrics", "tracing"},
    # Where traces are on, and not before.
    "tracing": {"spans"},
    "work_spans": {"spans", "tracing"},
    "request_log": {"metrics"},
    "batch_metrics": {"metrics"},
    "version_metrics": {"metrics"},
    "admission": {"metrics"},
    "answer_cache": {"answer_keys", "metrics"},
    "model_client": {"hops"},
    "image_way": {"hops", "model_client", "candidacy"},
    "dataplane": {"hops", "model_client", "candidacy", "image_way"},
    "comparison": {"differences"},
    "live_figures": {"recent"},
    "live_poll": {"hops"},
    "promotion": {"comparison"},
    "candidacy": {"hops", "model_client", "promotion_driver", "shadowing", "trial_metrics"},
    "preparation": {"served"},
    "repository": {"weight_files"},
}
PACKAGES = {"engines", "protocols", "settings"}
# What the rest of the graph may know of the engines when it is imported.
ENGINE_SEAM = {
    "deployments.engines.explanation",
    *("deployments.engines", "deployments.engines.base", "deployments.engines.memory", "deployments.engines.rehearsal"),
}
MODEL_LIBRARIES = {
    *("torch", "torchvision", "safetensors", "openvino", "nncf", "onnx", "onnxscript", "onnxruntime", "tensorrt"),
}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*sorted((ROOT / "deployments").rglob("*.py")), ROOT / "graph.py"]
}


@dataclass(frozen=True)
class Import:
    module: str
    at_import_time: bool


def imports_of(name: str, source: str, *, is_package: bool = False) -> list[Import]:
    """All imports in `source`, those inside functions and under `if TYPE_CHECKING` included."""
    package = name if is_package else name.rpartition(".")[0]
    return [
        Import(module, at_import_time)
        for node, at_import_time in _statements(ast.parse(source), at_import_time=True)
        for module in _imported(node, package)
    ]


def _statements(node: ast.AST, *, at_import_time: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, at_import_time
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types_only(node)
    for child in ast.iter_child_nodes(node):
        yield from _statements(child, at_import_time=at_import_time and not deferred)


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    origin = node.module or ""
    if node.level:
        parts = package.split(".")[: len(package.split(".")) - node.level + 1]
        origin = ".".join([*parts, *filter(None, [node.module])])
    # `from deployments import errors` imports a module, `from deployments.errors import BadRequest` does not.
    submodules = [f"{origin}.{alias.name}" for alias in node.names]
    return [submodule if submodule in MODULES else origin for submodule in submodules]


def part_of(module: str) -> str:
    """The name in LEVELS that `module` of this project belongs to."""
    return module.removeprefix("deployments.").partition(".")[0]


def violations(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What module `name` imports against the rule."""
    return [
        f"{name} imports {imported.module}: {fault}"
        for imported in imports_of(name, source, is_package=is_package)
        if (fault := _fault(part_of(name), imported))
    ]


def _fault(importer: str, imported: Import) -> str | None:
    library = imported.module.partition(".")[0]
    if library not in ("deployments", "graph"):
        return _fault_of_library(importer, library)
    part = part_of(imported.module)
    if part not in LEVELS:
        return "it has no level"
    if LEVELS[part] > LEVELS[importer]:
        return "it is a level above"
    if importer == part and importer in PACKAGES:
        return None
    if LEVELS[part] == LEVELS[importer] and part not in SIDEWAYS.get(importer, set()):
        return "it is on the same level"
    if part == "engines" and imported.at_import_time and imported.module not in ENGINE_SEAM:
        return "it is an engine, which only a creator may load"
    return None


def _fault_of_library(importer: str, library: str) -> str | None:
    if library in MODEL_LIBRARIES and importer != "engines":
        return "model libraries stay inside engines"
    if library == "ray" and importer != "instruments" and LEVELS[importer] < 3:
        return "Ray stays at levels 3 and up"
    return None


def test_the_walk_sees_every_part_of_the_graph() -> None:
    assert {"graph", "deployments", "deployments.batching", "deployments.protocols.oip.rest"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_level(name: str) -> None:
    assert part_of(name) in LEVELS


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    path = MODULES[name]
    assert violations(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("deployments")])
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))


def loaded_with(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """All modules, this project's and others', that importing `name` imports; of the others only their own name."""
    if name not in MODULES:
        return {name.partition(".")[0]}
    source, is_package = MODULES[name].read_text(encoding="utf-8"), MODULES[name].name == "__init__.py"
    imported = [one.module for one in imports_of(name, source, is_package=is_package) if one.at_import_time]
    found = {name}
    for module in imported:
        if module not in seen:
            found |= loaded_with(module, seen | found)
    return found


@pytest.mark.parametrize("name", ["deployments.classifier", "deployments.engines.choice"])
def test_model_libraries_are_loaded_only_when_an_engine_is_created(name: str) -> None:
    loaded = loaded_with(name)
    assert {"numpy", "deployments.engines.base"} <= loaded  # The walk gets there.
    assert loaded & MODEL_LIBRARIES == set()


def test_opentelemetry_is_loaded_only_where_traces_are_on() -> None:
    loaded = loaded_with("graph")
    assert {"deployments.tracing", "deployments.work_spans"} <= loaded  # The walk gets there.
    assert loaded & {"deployments.spans", "opentelemetry"} == set()


def test_the_graphs_annotations_are_not_strings() -> None:
    # Serve reads the type of `settings` from build's signature at run time; a string would switch validation off.
    imported = imports_of("graph", MODULES["graph"].read_text(encoding="utf-8"))
    assert "__future__" not in {one.module for one in imported}


def test_the_autoscaling_policy_imports_nothing_of_this_project() -> None:
    # Serve pickles its module, and nothing that it imports, into the controller.
    source = MODULES["deployments.autoscaling"].read_text(encoding="utf-8")
    imported = {one.module.partition(".")[0] for one in imports_of("deployments.autoscaling", source)}
    assert imported & {"deployments", "graph"} == set()
    assert imported - set(sys.stdlib_module_names) == {"ray"}


def test_the_package_itself_imports_nothing() -> None:
    # Everything imports it first, so that whatever it imported would be below every level.
    assert imports_of("deployments", MODULES["deployments"].read_text(encoding="utf-8"), is_package=True) == []


FORBIDDEN = {
    "upwards": ("deployments.batching", "from deployments.ingress import Ingress"),
    "upwards to the graph": ("deployments.ingress", "import graph"),
    "upwards inside a function": ("deployments.errors", "def late():\n    import deployments.batching"),
    "upwards for types only": (
        "deployments.repository",
        "if TYPE_CHECKING:\n    from deployments.engines import Engine",
    ),
    "upwards, relatively": ("deployments.batching", "from .ingress import Ingress"),
    "upwards, relatively from a package": ("deployments.protocols.oip.rest", "from ...ingress import Ingress"),
    "upwards by the package's name": ("deployments.batching", "from deployments import errors, ingress"),
    "sideways at level 0": ("deployments.errors", "from deployments.settings import Limits"),
    "settings from messages": ("deployments.settings", "from deployments.messages import Scores"),
    "sideways at level 1": ("deployments.batching", "import deployments.imaging"),
    "engines from protocols": ("deployments.engines.dummy", "from deployments.protocols.http import asgi_app"),
    "protocols from engines": ("deployments.protocols.http", "from deployments.engines import create_engine"),
    "one deployment from another": ("deployments.ingress", "from deployments.classifier import Classifier"),
    "an engine at import time": ("deployments.classifier", "from deployments.engines.torch_engine import TorchEngine"),
    "an engine by its package": ("deployments.classifier", "from deployments.engines import dummy"),
    "an engine inside a class": ("deployments.classifier", "class A:\n    import deployments.engines.sources"),
    "a model library": ("deployments.imaging", "import torch.nn.functional as F"),
    "a model library in a deployment": ("deployments.classifier", "from torch import nn"),
    "a model library inside a function": ("graph", "def build():\n    import onnxruntime"),
    "Ray in a protocol": ("deployments.protocols.http", "from ray import serve"),
    "Ray in the merge gate": ("deployments.batching", "import ray"),
    "a module without a level": ("deployments.ingress", "import deployments.playground"),
}


@pytest.mark.parametrize(("name", "source"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_walk_catches_what_is_forbidden(name: str, source: str) -> None:
    assert len(violations(name, source)) == 1


ALLOWED = {
    "downwards": ("deployments.ingress", "from deployments.protocols.http import asgi_app"),
    "downwards by the package's name": ("deployments.batching", "from deployments import errors"),
    "messages from settings": ("deployments.messages", "from deployments.settings import PreprocessingSpec"),
    "inside engines": ("deployments.engines.torch_engine", "from deployments.engines.sources import load_source"),
    "inside protocols": ("deployments.protocols.oip.rest", "from ..http import asgi_app"),
    "the seam": ("deployments.classifier", "from deployments.engines.base import Engine"),
    "an engine when it is created": ("graph", "def build():\n    from deployments.engines.dummy import DummyEngine"),
    "a model library in an engine": ("deployments.engines.sources", "import torch"),
    "Ray in a deployment": ("deployments.preprocessor", "from ray import serve"),
    "Ray in the instruments": ("deployments.instruments", "from ray.serve.metrics import Counter"),
    "any other library": ("deployments.errors", "import numpy, torchlight, raymond"),
}


@pytest.mark.parametrize(("name", "source"), ALLOWED.values(), ids=ALLOWED)
def test_the_walk_lets_pass_what_is_allowed(name: str, source: str) -> None:
    assert violations(name, source) == []
