"""What is too much is refused, and a body that is too large before it is sent."""

from collections.abc import Iterator

import grpc

from benchmarks.image_files import PNG_GREY, png
from benchmarks.selftest.checks import Skipped, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import content_of, named_limit, refused
from benchmarks.selftest.protocols import CALL_S, without_grpc
from benchmarks.selftest.refusals import ends_in
from benchmarks.selftest.wire import answer_to
from deployments.protocols.generated import inference_pb2

LIMITS = Topic("limits")
ANNOUNCED_BYTES = 10**12
CHUNK_BYTES = 2**16
# What a proxy may want to have of a body before it asks the service (RAY_SERVE_HAPROXY_TUNE_BUFSIZE), and what is in
# the buffers of two kernels on the way: they take megabytes.
HELD_BYTES, BUFFERED_BYTES = 4 * 2**20, 64 * 2**20
# The most that this test sends for one claim.
MOST_BODY_BYTES, MOST_IMAGES = 64 * 2**20, 1000
TINY = png(1, 1, 8, PNG_GREY, b"\0")


@LIMITS.claim("413 before it is sent")
async def a_body_announced_as_too_large_is_refused(deployment: Deployment) -> str:
    limit, came, sent_bytes = await _announced(deployment)
    return f"{came}, {'no limit named' if limit is None else f'limit {limit}'}, {sent_bytes / 2**20:.1f} MiB sent"


@LIMITS.claim("413 while it is sent")
async def a_body_without_length_is_cut_off(deployment: Deployment) -> str:
    limit = await _max_body_bytes(deployment)
    target = deployment.service.target("/predict")
    head = target.head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = f"{CHUNK_BYTES:x}\r\n".encode() + bytes(CHUNK_BYTES) + b"\r\n"
    response, sent_bytes = await answer_to(target, head, _chunks(chunk, limit + BUFFERED_BYTES))
    return f"{refused(response, [413])}, {sent_bytes / 2**20:.1f} MiB sent"


@LIMITS.claim("INVALID_ARGUMENT or RESOURCE_EXHAUSTED")
async def a_message_larger_than_a_body_is_refused_over_grpc(deployment: Deployment) -> str:
    without_grpc(deployment)
    limit = await _max_body_bytes(deployment)
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(bytes(limit + 1))
    request = inference_pb2.ModelInferRequest(model_name=deployment.model.name, inputs=[tensor])
    right = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
    async with deployment.service.stubs() as stubs:
        return await ends_in(stubs.inference.ModelInfer(request, timeout=CALL_S), *right)


@LIMITS.claim("413 too_many_images")
async def one_image_more_than_the_config_has_is_refused(deployment: Deployment) -> str:
    config = content_of(await deployment.service.get(f"/v2/models/{deployment.model.name}/config"))
    limit = int(config["max_batch_size"])
    if limit >= MOST_IMAGES:
        raise Skipped(f"{limit} images are more than this test sends")
    part = b'--b\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\n' + TINY + b"\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    path = f"/predict?model={deployment.model.name}"
    came = refused(await deployment.service.ask(path, part * (limit + 1) + b"--b--\r\n", headers), [413])
    return f"{came}, limit {limit}"


async def _max_body_bytes(deployment: Deployment) -> int:
    """As the refusal says it. Raises Skipped if it does not, or if that is much."""
    limit, _, _ = await _announced(deployment)
    if limit is None:
        raise Skipped("the refusal of a large body names no limit")
    if limit > MOST_BODY_BYTES:
        raise Skipped(f"{limit} bytes are more than this test sends")
    return limit


async def _announced(deployment: Deployment) -> tuple[int | None, str, int]:
    """The limit, if the refusal names it; the refusal; and how much of the body was sent until it came."""
    target = deployment.service.target("/predict")
    chunks = _chunks(bytes(CHUNK_BYTES), HELD_BYTES)
    response, sent_bytes = await answer_to(target, target.head(ANNOUNCED_BYTES), chunks)
    came = refused(response, [413])
    demand("too_large" in came, came)
    return named_limit(response), came, sent_bytes


def _chunks(chunk: bytes, total_bytes: int) -> Iterator[bytes]:
    for _ in range(total_bytes // len(chunk) + 1):
        yield chunk
