"""Files that no camera writes, and requests that no client sends, cost nobody anything."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from benchmarks.hostile_files import FRAMES, METADATA, POLYGLOTS, SIZES, Hostile, png_header
from benchmarks.image_files import bmp_header, encode, gif, jpeg_header, noise, png_chunk, tiff, webp_of_one_colour
from benchmarks.selftest.answers import EXAMPLES
from benchmarks.selftest.checks import Broken, Topic, demand
from benchmarks.selftest.deployment import Deployment
from benchmarks.selftest.judging import TOLERANCE, agrees, content_of, is_beyond_limit, parsed, refused, told
from benchmarks.selftest.wire import all_that_comes, connected, statuses
from benchmarks.soak.asking import WAYS
from benchmarks.soak.questions import FORMATS

HOSTILE = Topic("hostile")
# Each declares as much as its format can, in some dozens of bytes.
MOST = 2**31 - 1
BOMBS = {
    "PNG": png_header(MOST, MOST) + png_chunk(b"IDAT", b"\x78\x9c"),
    "JPEG": jpeg_header(65_535, 65_535),
    "GIF": gif((65_535, 65_535), (65_535, 65_535)),
    "WebP": webp_of_one_colour(16_384, 16_384),
    "TIFF": tiff(MOST, MOST, [8], 1, bytes(64)),
    "BMP": bmp_header(MOST, MOST),
}
NO_PICTURES = {
    "text": b"Dear service, what is this?\n" * 10,
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
}
# What the operator's limits may make of a file besides.
BY_LIMITS = ("too_many_pixels", "animated_image", "decode_timed_out")
LENGTHS = {
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6", b"aaaaaa"),
    "a list of lengths": (b"Content-Length: 5, 6", b"aaaaaa"),
    "a negative length": (b"Content-Length: -1", b""),
    "a length that is none": (b"Content-Length: five", b"aaaaa"),
    "a length beyond 64 bits": (b"Content-Length: " + b"9" * 30, b"a"),
    "a chunk whose size is none": (b"Transfer-Encoding: chunked", b"zz\r\naa\r\n0\r\n\r\n"),
    "a chunk beyond 64 bits": (b"Transfer-Encoding: chunked", b"f" * 17 + b"\r\naa"),
    "another coding of the transfer": (b"Transfer-Encoding: xchunked", b"5\r\naaaaa\r\n0\r\n\r\n"),
}
# Of slow senders, and for how long each sends a byte now and then.
SLOW_SENDERS, SLOW_S, BETWEEN_BYTES_S = 20, 2.0, 0.25


async def _bomb(image_format: str, deployment: Deployment) -> str:
    return refused(await deployment.service.ask(_path(deployment), BOMBS[image_format]), [422])


for _format in BOMBS:
    HOSTILE.add(f"a {_format} that declares as many pixels as it can is refused", "422", partial(_bomb, _format))


@HOSTILE.claim("422 corrupt_image")
async def half_a_picture_of_each_format_is_refused(deployment: Deployment) -> str:
    for image_format in FORMATS:
        whole = encode(noise(64, 48), image_format)
        came = refused(await deployment.service.ask(_path(deployment), whole[: len(whole) // 2]), [422])
    return f"{came}, {len(FORMATS)} times"


@HOSTILE.claim("415 unsupported_format")
async def what_is_no_picture_is_refused(deployment: Deployment) -> str:
    for content in NO_PICTURES.values():
        came = refused(await deployment.service.ask(_path(deployment), content), [415])
    return f"{came}, {len(NO_PICTURES)} times"


async def _family(files: Mapping[str, Hostile], deployment: Deployment) -> str:
    wrong = []
    for what, hostile in files.items():
        response = await deployment.service.ask(_path(deployment), hostile.data)
        if is_beyond_limit(response, hostile.data):
            continue
        code = "picture" if response.status == 200 else str(parsed(response.body).get("code"))
        if response.status not in (200, 415, 422) or code not in (*hostile.ends, *BY_LIMITS):
            wrong.append(f"{what}: {told(response)}")
    demand(not wrong, f"{len(wrong)} of {len(files)}: {'; '.join(wrong[:EXAMPLES])}")
    return f"{len(files)} files as expected"


_FAMILIES: Sequence[tuple[str, Mapping[str, Hostile]]] = (
    ("metadata that inflate, or lie, are harmless", METADATA),
    ("sizes that lie, and pictures of 1 x N, are harmless", SIZES),
    ("thousands of frames are harmless", FRAMES),
    ("a file that is two things is one of them, or refused", POLYGLOTS),
)
for _claim, _files in _FAMILIES:
    HOSTILE.add(_claim, "a picture, 415 or 422", partial(_family, _files))


@HOSTILE.claim("4xx, or cut off")
async def lengths_that_are_none_are_refused(deployment: Deployment) -> str:
    target = deployment.service.target(_path(deployment))
    head = target.head(0)

    async def refusal(what: str, headers: bytes, body: bytes) -> str:
        sent = head.replace(b"Content-Length: 0", b"Connection: close\r\n" + headers) + body
        found = statuses(await all_that_comes(target, sent))
        demand(all(400 <= status < 500 for status in found) and len(found) <= 2, f"{what}: {found}")
        return str(found[0]) if found else "cut off"

    came = await asyncio.gather(*(refusal(what, *sent) for what, sent in LENGTHS.items()))
    return ", ".join(sorted(set(came)))


@HOSTILE.claim("200 meanwhile")
async def slow_senders_hold_up_nobody(deployment: Deployment) -> str:
    """Some send their heads byte by byte, others their bodies; none ends before the others are answered."""
    target = deployment.service.target(_path(deployment))
    heads = [b"POST /predict HTTP/1.1\r\nHost: he", target.head(5000) + b"aaa", b"P"]
    asked = WAYS["predict, raw"].ask([deployment.question])
    answered, ends = 0, asyncio.get_running_loop().time() + SLOW_S
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(connected(target)) for _ in range(SLOW_SENDERS)]
        for number, (_, writer) in enumerate(slow):
            writer.write(heads[number % len(heads)])
        while asyncio.get_running_loop().time() < ends:
            response = await deployment.service.ask(asked.path, asked.body, asked.headers)
            content_of(response)
            agrees(asked.read(response), [deployment.question], TOLERANCE)
            answered += 1
            for _, writer in slow:
                # Some may have been cut off, rightly.
                if not writer.is_closing():
                    writer.write(b"a")
            await asyncio.sleep(BETWEEN_BYTES_S)
    if not answered:
        raise Broken("no answer")
    return f"200, {answered} times beside {SLOW_SENDERS} slow senders"


def _path(deployment: Deployment) -> str:
    return f"/predict?model={deployment.model.name}&top_k=1"
