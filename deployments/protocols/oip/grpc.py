"""inference.GRPCInferenceService: the Open Inference Protocol v2 over gRPC, with Triton's extensions.

Specified in github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md, and in
github.com/triton-inference-server/server, docs/protocol.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from itertools import chain, count
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict

from deployments.messages import DataPlane, ModelInfo
from deployments.protocols.addressing import chosen, described
from deployments.protocols.authentication import admit_rpc
from deployments.protocols.generated import inference_pb2 as pb
from deployments.protocols.oip import contract
from deployments.protocols.oip.grpc_messages import parse_request, render_response
from deployments.protocols.oip.inference import infer
from deployments.protocols.patience import Patience
from deployments.protocols.rpc import (
    OK,
    Context,
    Rpcs,
    check_size,
    details_of,
    note_failure,
    patience_with,
    recorded,
    refused,
    route,
    rpc,
    timed_rpc,
    unserved,
    visible,
)
from deployments.protocols.traced import rpc_failed, rpc_succeeded, traced_rpc
from deployments.records import current

Item = TypeVar("Item")
Result = TypeVar("Result")

# Versions are numbers.
LABELS = re.compile("[A-Za-z]")
# How many requests of one stream are worked on while the first of them is not answered yet.
STREAM_AHEAD = 16


class InferenceRpcs(Rpcs):
    """inference.GRPCInferenceService."""

    @rpc(pb.ServerLiveResponse)
    async def ServerLive(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @rpc(pb.ServerReadyResponse)
    async def ServerReady(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Ready once every model is warm, but for those unloaded by request."""
        return pb.ServerReadyResponse(ready=self.plane.is_ready())

    @rpc(pb.ModelReadyResponse)
    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        is_ready = contract.is_ready(self.plane, request.name, *_asked(request.version))
        return pb.ModelReadyResponse(ready=is_ready)

    @rpc(pb.ServerMetadataResponse)
    async def ServerMetadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return ParseDict(contract.server_metadata(), pb.ServerMetadataResponse())

    @rpc(pb.ModelMetadataResponse)
    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        info = described(self.plane, request.name, *_asked(request.version))
        metadata = contract.model_metadata(info, self.plane.versions_of(info.name))
        return ParseDict({**metadata, "properties": _properties(self.plane, info)}, pb.ModelMetadataResponse())

    @rpc(pb.ModelConfigResponse)
    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        info = described(self.plane, request.name, *_asked(request.version))
        return ParseDict({"config": contract.model_config(info, self.plane.limits)}, pb.ModelConfigResponse())

    @rpc(pb.ModelStatisticsResponse)
    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Of the version, of each that the model has, or of all models if the request names none."""
        if request.name:
            info = described(self.plane, request.name, *_asked(request.version))
            stats = await contract.statistics_of(self.plane, info.name, info.version if request.version else None)
        else:
            models = self.plane.ready_models()
            counted = await asyncio.gather(*(contract.statistics_of(self.plane, model) for model in models))
            stats = list(chain.from_iterable(counted))
        return ParseDict({"model_stats": stats}, pb.ModelStatisticsResponse())

    @rpc(pb.RepositoryIndexResponse)
    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        models = contract.repository_index(self.plane, ready_only=request.ready)
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

        numbers = count(1)

        async def answer(one: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            with traced_rpc("ModelStreamInfer", one, grpc_context), recorded("ModelStreamInfer", grpc_context):
                return await answer_in_turn(one)

        async def answer_in_turn(one: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                admit_rpc(self.access, "ModelStreamInfer", grpc_context)
                check_size(one, self.plane.limits)
                route(grpc_context, next(numbers))
                response = await _infer(self.plane, one, patience_with(grpc_context, self.plane.limits))
            except Exception as err:
                error = visible(err, grpc_context)
                note_failure(error)
                rpc_failed(error)
                response = pb.ModelInferResponse(model_name=one.model_name, id=one.id)
                return pb.ModelStreamInferResponse(error_message=details_of(error), infer_response=response)
            # Each request has one response; clients of models that have many look for the end.
            response.parameters["triton_final_response"].bool_param = True
            rpc_succeeded()
            current().status = OK
            return pb.ModelStreamInferResponse(infer_response=response)

        try:
            # Each request of the stream counts, and the stream itself does not.
            admit_rpc(self.access, "ModelStreamInfer", grpc_context, requests=0)
            async with aclosing(_in_order(request, answer, STREAM_AHEAD)) as answers:
                async for response in answers:
                    yield response
        except Exception as error:  # The stream itself has failed.
            with recorded("ModelStreamInfer", grpc_context):
                refused(visible(error, grpc_context), grpc_context, None)
            raise

    SystemSharedMemoryStatus = unserved("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusResponse)
    SystemSharedMemoryRegister = unserved("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterResponse)
    SystemSharedMemoryUnregister = unserved("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterResponse)
    CudaSharedMemoryStatus = unserved("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusResponse)
    CudaSharedMemoryRegister = unserved("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterResponse)
    CudaSharedMemoryUnregister = unserved("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterResponse)
    TraceSetting = unserved("TraceSetting", pb.TraceSettingResponse)
    LogSettings = unserved("LogSettings", pb.LogSettingsResponse)


async def _infer(plane: DataPlane, request: pb.ModelInferRequest, patience: Patience) -> pb.ModelInferResponse:
    info = chosen(plane, request.model_name, *_asked(request.model_version))
    parsed = parse_request(request, info, plane.check_count)
    return render_response(await infer(plane, info, parsed, patience.left_s(parsed.timeout_s)))


def _asked(model_version: str) -> tuple[str | None, str | None]:
    """The version, or the label. The field is text: none is empty, and what begins with a letter is a label."""
    if LABELS.match(model_version):
        return None, model_version
    return model_version or None, None


def _properties(plane: DataPlane, info: ModelInfo) -> dict[str, str]:
    states = {
        f"versions.{each.version}": f"{each.state}: {each.reason}" if each.reason else each.state
        for each in plane.versions_of(info.name)
    }
    labels = {f"labels.{label}": str(version) for label, version in plane.labels_of(info.name).items()}
    return {"version": str(info.version), "preprocessing_spec": info.preprocessing.digest, **states, **labels}


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
