"""The generated messages: what proto/ says, picklable, and beside other packages' messages of the same names."""

import importlib
import importlib.util
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

from deployments.protocols.generated import (
    POOL,
    inference_pb2,
    tensorflow_pb2,
    tensorflow_serving_pb2,
)
from tests.unit.rpc_server import AllRpcs

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "proto").glob("*.proto"))
FIELD = re.compile(r"^\s+(?:repeated )?(?:map<[^>]+>|[\w.]+) (\w+) = (\d+);", re.MULTILINE)
RPC = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);")


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools, of the extra dev")
def test_the_generated_code_is_what_the_script_writes() -> None:
    script = importlib.import_module("scripts.generate_protos")
    checked_in = {path.name: path.read_text(encoding="utf-8") for path in script.GENERATED.glob("*_pb2*.py")}
    assert script.generate() == checked_in


@pytest.mark.parametrize("path", PROTOS, ids=[path.stem for path in PROTOS])
def test_the_descriptors_have_the_fields_and_rpcs_of_the_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    file = descriptor_pb2.FileDescriptorProto()
    POOL_FILES[path.name].CopyToProto(file)
    assert sorted(FIELD.findall(text)) == sorted(fields_of(file.message_type, file.enum_type))
    described = [
        (rpc.name, "stream " * rpc.client_streaming, name_of(rpc.input_type), "stream " * rpc.server_streaming)
        for service in file.service
        for rpc in service.method
    ]
    assert [found[:4] for found in RPC.findall(text)] == described


POOL_FILES = {
    path.name: importlib.import_module(f"deployments.protocols.generated.{path.stem}_pb2").DESCRIPTOR for path in PROTOS
}


def name_of(full_name: str) -> str:
    return full_name.rpartition(".")[2]


def fields_of(messages: list[descriptor_pb2.DescriptorProto], enums: list[object]) -> list[tuple[str, str]]:
    """Names and numbers of all fields, those of nested messages included; protoc's own entries of maps are not."""
    found = []
    for message in messages:
        if not message.options.map_entry:
            found += [(field.name, str(field.number)) for field in message.field]
            found += fields_of(message.nested_type, message.enum_type)
    return found


SERVICES = {
    file.package + "." + service: list(descriptor.methods_by_name)
    for file in (health_pb2.DESCRIPTOR, *POOL_FILES.values())
    for service, descriptor in file.services_by_name.items()
}


def test_no_two_services_have_an_rpc_of_the_same_name() -> None:
    # Serve finds a method by the last part of an RPC's path.
    names = [name for rpcs in SERVICES.values() for name in rpcs]
    assert len(SERVICES) == 4
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", sorted(name for rpcs in SERVICES.values() for name in rpcs))
def test_every_rpc_is_a_method_that_serve_would_pass_the_context_to(name: str) -> None:
    method = getattr(AllRpcs, name)
    assert list(inspect.signature(method).parameters) == ["self", "request", "grpc_context"]
    # Any other callable would be run in a thread.
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def test_messages_survive_pickling() -> None:
    request = inference_pb2.ModelInferRequest(
        model_name="shapes",
        inputs=[{"name": "IMAGE", "datatype": "BYTES", "shape": [1]}],
        parameters={"timeout": {"int64_param": 5}},
        raw_input_contents=[b"\x00\xff"],
    )
    metadata = tensorflow_serving_pb2.GetModelMetadataResponse(model_spec={"name": "shapes", "version": {"value": 3}})
    metadata.metadata["signature_def"].Pack(tensorflow_serving_pb2.SignatureDefMap())
    for message in (request, metadata, tensorflow_pb2.TensorProto(dtype=tensorflow_pb2.DT_FLOAT, float_val=[0.5])):
        copy = pickle.loads(pickle.dumps(message))
        assert (type(copy), copy) == (type(message), message)


OTHERS_FIRST = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

for package, message in (("inference", "ModelInferRequest"), ("tensorflow", "TensorProto")):
    theirs = descriptor_pb2.FileDescriptorProto(name=package + ".proto", package=package, syntax="proto3")
    field = theirs.message_type.add(name=message).field.add(name="another", number=1, label=1, type=9)
    descriptor_pool.Default().AddSerializedFile(theirs.SerializeToString())

from deployments.protocols.generated import inference_pb2, tensorflow_pb2, tensorflow_serving_pb2

found = descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
other = message_factory.GetMessageClass(found)(another="theirs")
ours = inference_pb2.ModelInferRequest(model_name="ours")
assert other.another == "theirs" and ours.model_name == "ours"
"""


def test_messages_of_the_same_names_may_be_in_the_process_already() -> None:
    # In a process of its own: the default pool cannot be emptied again.
    run = subprocess.run([sys.executable, "-c", OTHERS_FIRST], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_nothing_of_ours_is_in_the_default_pool() -> None:
    code = (
        "from google.protobuf import descriptor_pool\n"
        "from deployments.protocols.generated import inference_pb2, tensorflow_serving_pb2\n"
        "for name in ('inference.ModelInferRequest', 'tensorflow.serving.PredictRequest', 'tensorflow.TensorProto'):\n"
        "    try:\n"
        "        descriptor_pool.Default().FindMessageTypeByName(name)\n"
        "    except KeyError:\n"
        "        continue\n"
        "    raise SystemExit(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_well_known_types_are_in_the_pool_of_ours() -> None:
    version = tensorflow_serving_pb2.ModelSpec.DESCRIPTOR.fields_by_name["version"].message_type
    assert version is POOL.FindMessageTypeByName("google.protobuf.Int64Value")
