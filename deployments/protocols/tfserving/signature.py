"""What a model looks like to clients of TensorFlow Serving: one signature over the tensors of `tensors`.

The dicts are in the JSON form of TensorFlow's messages, so that gRPC parses what REST answers. Sources:
tensorflow/core/protobuf/meta_graph.proto, and tensorflow/python/saved_model/signature_constants.py for the names.
"""

from collections.abc import Sequence
from typing import Any, Final

from deployments.errors import BadRequest
from deployments.messages import ModelInfo
from deployments.protocols.json_bodies import quoted
from deployments.protocols.tensors import input_shape
from deployments.settings import InputName

SIGNATURE: Final = "serving_default"
METHOD: Final = "tensorflow/serving/predict"
# Of the inputs of `tensors`.
DTYPES: Final[dict[InputName, str]] = {"IMAGE": "DT_STRING", "PIXELS": "DT_UINT8", "INPUT": "DT_FLOAT"}


def signature_def_map(info: ModelInfo) -> dict[str, Any]:
    """SignatureDefMap. A request has one of the inputs, although a signature has no way to say so."""
    inputs = {name: _tensor_info(name, DTYPES[name], input_shape(name, info)) for name in info.inputs}
    outputs = {name: _tensor_info(name, "DT_FLOAT", [-1, len(info.labels)]) for name in info.outputs}
    return {"signature_def": {SIGNATURE: {"inputs": inputs, "outputs": outputs, "method_name": METHOD}}}


def check_signature(name: str) -> None:
    """Raises BadRequest if that is another signature; none means the only one."""
    if name not in ("", SIGNATURE):
        raise BadRequest(f"The only signature is {SIGNATURE!r}; there is no {quoted(name)}.")


def input_of(key: str, dtype: str, info: ModelInfo) -> InputName:
    """The input that a client means by a key of its own: of that name, or else of that datatype. Raises BadRequest.

    TensorFlow's models call their inputs whatever they like, so a stock client's key says little.
    """
    name = next((name for name in DTYPES if name == key.upper()), None)
    name = name or next((name for name, have in DTYPES.items() if have == dtype), None)
    if name is None or name not in info.inputs or DTYPES[name] != dtype:
        expected = ", ".join(f"{name} of {DTYPES[name]}" for name in info.inputs)
        raise BadRequest(f"The model {info.name!r} takes {expected}, and not {quoted(key)} of {quoted(dtype)}.")
    return name


def _tensor_info(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    # JSON of protobuf writes 64-bit integers as text.
    dims = [{"size": str(size), "name": ""} for size in shape]
    return {"name": name, "dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}}
