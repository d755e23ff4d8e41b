"""inference.GRPCInferenceService: the Open Inference Protocol v2 over gRPC, with Triton's extensions.

Specified in github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md, and in
github.com/triton-inference-server/server, docs/protocol.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf.json_format import ParseDict

from deployments.errors import BadRequest, ModelNotReady
from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.authentication import admit_rpc
from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.json_bodies import quoted
from deployments.protocols.oip import contract
from deployments.protocols.oip.binary import bytes_of, tensor_from_bytes
from deployments.protocols.oip.inference import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    check_input,
    check_names,
    infer,
)
from deployments.protocols.patience import Patience
from deployments.protocols.rpc import (
    Context,
    Rpcs,
    check_size,
    details_of,
    patience_with,
    refused,
    rpc,
    timed_rpc,
    unserved,
    visible,
)
from deployments.protocols.tensors import OUTPUTS

Item = TypeVar("Item")
Result = TypeVar("Result")

# Where the elements of a datatype are, unless they are in raw_input_contents.
CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
# How many requests of one stream are worked on while the first of them is not answered yet.
STREAM_AHEAD = 16


class InferenceRpcs(Rpcs):
    """inference.GRPCInferenceService."""

    @rpc(pb.ServerLiveResponse)
    async def ServerLive(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @rpc(pb.ServerReadyResponse)
    async def ServerReady(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Ready once every model is warm."""
        return pb.ServerReadyResponse(ready=None not in self.plane.ready_models().values())

    @rpc(pb.ModelReadyResponse)
    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self.plane.info_of(request.name, request.version or None)
        except ModelNotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @rpc(pb.ServerMetadataResponse)
    async def ServerMetadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return ParseDict(contract.server_metadata(), pb.ServerMetadataResponse())

    @rpc(pb.ModelMetadataResponse)
    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        info = self.plane.info_of(request.name, request.version or None)
        return ParseDict(contract.model_metadata(info), pb.ModelMetadataResponse())

    @rpc(pb.ModelConfigResponse)
    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        info = self.plane.info_of(request.name, request.version or None)
        return ParseDict({"config": contract.model_config(info, self.plane.limits)}, pb.ModelConfigResponse())

    @rpc(pb.ModelStatisticsResponse)
    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Of the model, or of all that are warm if the request names none."""
        if request.name:
            infos = [self.plane.info_of(request.name, request.version or None)]
        else:
            infos = [info for info in self.plane.ready_models().values() if info is not None]
        statistics = await asyncio.gather(*(self.plane.statistics(info.name) for info in infos))
        stats = [contract.model_statistics(*pair) for pair in zip(infos, statistics, strict=True)]
        return ParseDict({"model_stats": stats}, pb.ModelStatisticsResponse())

    @rpc(pb.RepositoryIndexResponse)
    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        models = contract.repository_index(self.plane.ready_models(), ready_only=request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    @timed_rpc(pb.ModelInferResponse)
    async def ModelInfer(self, request: pb.ModelInferRequest, patience: Patience) -> pb.ModelInferResponse:
        return await _infer(self.plane, request, patience)

    async def ModelStreamInfer(
        self, request: AsyncIterator[pb.ModelInferRequest], grpc_context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answers in the order of the requests, of which some are worked on at the same time.

        The error of a request is its answer's error_message, and the stream goes on. The timeout in the metadata of the
        stream is that of each request.
        """

        async def answer(one: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                admit_rpc(self.access, "ModelStreamInfer", grpc_context)
                check_size(one, self.plane.limits)
                response = await _infer(self.plane, one, patience_with(grpc_context, self.plane.limits))
            except Exception as error:
                response = pb.ModelInferResponse(model_name=one.model_name, id=one.id)
                return pb.ModelStreamInferResponse(
                    error_message=details_of(visible(error, grpc_context)), infer_response=response
                )
            # Each request has one response; clients of models that have many look for the end.
            response.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        try:
            # Each request of the stream counts, and the stream itself does not.
            admit_rpc(self.access, "ModelStreamInfer", grpc_context, requests=0)
            async with aclosing(_in_order(request, answer, STREAM_AHEAD)) as answers:
                async for response in answers:
                    yield response
        except Exception as error:  # The stream itself has failed.
            refused(visible(error, grpc_context), grpc_context, None)
            raise

    RepositoryModelLoad = unserved("RepositoryModelLoad", pb.RepositoryModelLoadResponse)
    RepositoryModelUnload = unserved("RepositoryModelUnload", pb.RepositoryModelUnloadResponse)
    SystemSharedMemoryStatus = unserved("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusResponse)
    SystemSharedMemoryRegister = unserved("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterResponse)
    SystemSharedMemoryUnregister = unserved("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterResponse)
    CudaSharedMemoryStatus = unserved("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusResponse)
    CudaSharedMemoryRegister = unserved("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterResponse)
    CudaSharedMemoryUnregister = unserved("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterResponse)
    TraceSetting = unserved("TraceSetting", pb.TraceSettingResponse)
    LogSettings = unserved("LogSettings", pb.LogSettingsResponse)


async def _infer(plane: DataPlane, request: pb.ModelInferRequest, patience: Patience) -> pb.ModelInferResponse:
    info = plane.info_of(request.model_name, request.model_version or None)
    timeout_us = _number(request.parameters, "timeout")
    # One more than there are is refused, whatever the others are.
    outputs = request.outputs[: len(OUTPUTS) + 1]
    parsed = InferRequest(
        inputs=[_input(plane, info, request)],
        outputs=[RequestedOutput(output.name, _number(output.parameters, "classification")) for output in outputs],
        id=request.id,
        timeout_s=timeout_us / 1e6 if timeout_us else None,
    )
    return _rendered(await infer(plane, info, parsed, patience.left_s(parsed.timeout_s)))


def _input(plane: DataPlane, info: ModelInfo, request: pb.ModelInferRequest) -> Tensor:
    """The one input of the request. What is said of it is checked before its elements are touched."""
    check_names([tensor.name for tensor in request.inputs[:6]], info)
    (tensor,) = request.inputs
    check_input(tensor.name, tensor.datatype, tensor.shape, info)
    plane.check_count(tensor.shape[0])
    if "shared_memory_region" in tensor.parameters:
        raise BadRequest("Inputs in shared memory are not supported; send them in raw_input_contents.")
    if not request.raw_input_contents:
        return _typed(tensor)
    if tensor.HasField("contents"):
        raise BadRequest("An input's elements are in raw_input_contents or in contents, and not in both.")
    if len(request.raw_input_contents) != 1:
        raise BadRequest(f"The request has 1 input, but {len(request.raw_input_contents)} raw_input_contents.")
    return tensor_from_bytes(tensor.name, tensor.datatype, tensor.shape, request.raw_input_contents[0])


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Tensor:
    field = CONTENTS[tensor.datatype]
    elements, count = getattr(tensor.contents, field), math.prod(tensor.shape)
    if len(elements) != count:
        raise BadRequest(f"The input {tensor.name} has {len(elements)} {field}; its shape needs {count}.")
    if tensor.datatype == "BYTES":
        values = np.empty(count, object)
        values[:] = list(elements)
    else:
        values = np.array(elements)  # uint32 or float32
    if tensor.datatype == "UINT8":
        if values.max() > 255:
            raise BadRequest(f"The input {tensor.name} has the element {values.max()}, which is no UINT8.")
        values = values.astype(np.uint8)
    return Tensor(tensor.name, tensor.datatype, values.reshape(tensor.shape))


def _number(parameters: Any, key: str) -> int:
    """A parameter that is an integer and not negative, or 0 if it is not there."""
    if key not in parameters:
        return 0
    kind = parameters[key].WhichOneof("parameter_choice")
    value = getattr(parameters[key], kind) if kind else None
    if kind not in ("int64_param", "uint64_param") or cast("int", value) < 0:
        raise BadRequest(f"The parameter {key} must be an int64_param of 0 or more, not {quoted(value)}.")
    return cast("int", value)


def _rendered(response: InferResponse) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=response.info.name,
        model_version=str(response.info.version),
        id=response.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape
            )
            for tensor in response.outputs
        ],
        # Where stock clients look for them, and nowhere else.
        raw_output_contents=[bytes_of(tensor) for tensor in response.outputs],
    )


async def _in_order(
    items: AsyncIterator[Item], work: Callable[[Item], Coroutine[Any, Any, Result]], ahead: int
) -> AsyncGenerator[Result, None]:
    """The result of each item, in the order of the items; at most `ahead` of them are begun and not taken."""
    begun: asyncio.Queue[asyncio.Task[Result] | None] = asyncio.Queue()
    places = asyncio.Semaphore(ahead)
    tasks: set[asyncio.Task[Any]] = set()

    async def begin() -> None:
        try:
            async for item in items:
                await places.acquire()
                task = asyncio.create_task(work(item))
                tasks.add(task)
                begun.put_nowait(task)
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(begin())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            tasks.discard(task)
            places.release()
        await reader
    finally:
        # Whoever takes the results may leave early, with the client.
        for task in [reader, *tasks]:
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)
