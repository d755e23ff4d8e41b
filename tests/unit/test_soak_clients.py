"""The requests of a soak are what the protocols take, and its clients see what a bad server does."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.http_client import Response, Target
from benchmarks.image_files import encode, noise
from benchmarks.soak.asking import WAYS
from benchmarks.soak.census import SHARED_MEMORY, shared_memory, unused
from benchmarks.soak.clients import BURST, Client, burster, http_caller, trickler
from benchmarks.soak.ledger import Judgement, Ledger, judged
from benchmarks.soak.misuse import Misuse, misuses
from benchmarks.soak.questions import MODEL, Question
from benchmarks.soak.rude import leaver, misuser
from benchmarks.soak.world import World
from benchmarks.uploads import Uploaded, upload
from deployments.messages import ImageInput
from tests.unit.bytes_plane import LABELS, BytesPlane, probabilities_of, send
from tests.unit.local_server import BUSY, HANG_UP, OK, Respond, serving

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def question(seed: int, sent: ImageInput | None = None) -> Question:
    """With the answer of BytesPlane to what is sent: the file, unless it is something else."""
    picture = noise(12, 10, seed=seed)
    image = encode(picture, "PNG")
    answer = dict(zip(LABELS, map(float, probabilities_of(image if sent is None else sent)), strict=True))
    return Question(f"noise {seed}", image, np.asarray(picture), np.zeros((3, 224, 224), np.float32), answer)


QUESTIONS = [question(seed) for seed in range(4)]
PIXELS = [question(0, QUESTIONS[0].pixels)]
OF_FILES = [name for name in WAYS if not any(word in name for word in ("arrays", "pixels", "tensors"))]


def received(name: str, questions: Sequence[Question]) -> Response:
    """The answer of the protocol itself, as the soak's client has it."""
    asked = WAYS[name].ask(questions)
    answer = send("POST", asked.path, BytesPlane(), content=asked.body, headers=dict(asked.headers))
    head = "".join(f"{key.lower()}: {value.lower()}\r\n" for key, value in answer.headers.items())
    return Response(answer.status_code, answer.content, f"http/1.1 200 ok\r\n{head}\r\n".encode())


def judgement(name: str, questions: Sequence[Question], others: Sequence[Question] | None = None) -> str:
    """Of the answer to `questions`, as if `others` had been asked."""
    way, response = WAYS[name], received(name, questions)
    assert response.status == 200, response.body
    found = way.ask(others or questions).read(response)
    return judged(others or questions, found, min(way.labels, len(LABELS)), one_by_one=way.one_by_one)[0]


@pytest.mark.parametrize("name", OF_FILES)
def test_every_protocol_answers_and_the_answer_to_another_image_is_wrong(name: str) -> None:
    asked = QUESTIONS[: WAYS[name].images]
    assert judgement(name, asked) == "answered"
    assert judgement(name, asked, asked[::-1] if len(asked) > 1 else [QUESTIONS[3]]) == "wrong"


@pytest.mark.parametrize("name", ["predict, arrays", "OIP, binary pixels"])
def test_pixels_are_sent_as_they_are(name: str) -> None:
    assert judgement(name, PIXELS) == "answered"
    assert judgement(name, PIXELS, [QUESTIONS[0]]) == "wrong"


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.one_by_one])
def test_a_refusal_among_answers_is_read_as_its_code(name: str) -> None:
    bad = Question("bad", b"bad", QUESTIONS[0].pixels, QUESTIONS[0].prepared, {}, "corrupt_image")
    asked = [*QUESTIONS[: WAYS[name].images - 1], bad]
    assert judgement(name, asked) == "answered"
    assert judgement(name, asked, QUESTIONS[: WAYS[name].images]) == "failed"


# BytesPlane decodes nothing: what only a decoder refuses is left to the soak itself.
MISUSES = [bad for bad in misuses(QUESTIONS[0].image, MODEL) if bad.statuses != (422,) and bad.what != "a PDF"]


@pytest.mark.parametrize("bad", MISUSES, ids=lambda bad: bad.what)
def test_what_is_misused_is_refused_as_expected(bad: Misuse) -> None:
    answer = send(bad.method, bad.path, BytesPlane(), content=bad.body, headers=dict(bad.headers))
    assert answer.status_code in bad.statuses, answer.text


class Watched(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.has_entry = asyncio.Event()

    def record(self, kind: str, judgement: Judgement) -> None:
        super().record(kind, judgement)
        self.has_entry.set()


def left_by(client: Client, respond: Respond) -> Ledger:
    """What the client has recorded when it stops after its first request, or burst."""

    async def run() -> Ledger:
        async with asyncio.timeout(30), serving(respond) as server:
            ledger, stopped = Watched(), asyncio.Event()
            world = World(server.url.removesuffix("/predict"), "", QUESTIONS, QUESTIONS, ledger, stopped)
            running = asyncio.create_task(client(world, random.Random(0)))
            await ledger.has_entry.wait()
            stopped.set()
            await running
            return ledger

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        pytest.param(HANG_UP, "lost", id="a connection that ends"),
        pytest.param(OK, "wrong", id="an answer without predictions"),
        pytest.param(BUSY, "refused", id="a refusal"),
        pytest.param(TOO_LARGE, "failed", id="a refusal for no reason"),
    ],
)
def test_a_caller_records_what_came_of_each_request(answer: bytes, fate: str) -> None:
    async def respond(_: int) -> bytes:
        return answer

    ledger = left_by(http_caller, respond)
    assert ledger.sent() == ledger.count(fate) > 0  # type: ignore[arg-type]


def test_a_burst_is_all_at_once_and_each_of_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak.clients.BURST_S", 0.1)
    all_wait = asyncio.Event()

    async def respond(number: int) -> bytes:
        if number == BURST - 1:
            all_wait.set()
        await all_wait.wait()
        return BUSY

    ledger = left_by(burster, respond)
    assert ledger.count("refused") == ledger.sent() > 0
    assert ledger.sent() % BURST == 0


def test_a_server_that_answers_misuse_is_found() -> None:
    async def respond(_: int) -> bytes:
        return OK

    ledger = left_by(misuser, respond)
    assert ledger.count("failed") == ledger.sent() > 0


def test_leavers_leave_and_tricklers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak.clients.TRICKLE_S", 0.1)
    monkeypatch.setattr("benchmarks.soak.clients.TRICKLE_PAUSE_S", 0.01)

    async def respond(_: int) -> bytes:
        return OK

    assert left_by(leaver, respond).count("left") > 0
    assert left_by(trickler, respond).count("answered") > 0


def test_an_upload_ends_with_the_answer_and_not_with_its_body() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TOO_LARGE)
        await writer.drain()
        await reader.read(1)  # So that the answer is sent before the connection is reset.
        writer.close()

    async def run() -> Uploaded:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            target = Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict")
            return await upload(target, bytes(200 * 2**20), timeout_s=30)

    sent = asyncio.run(run())
    assert sent.status == 413
    assert sent.sent_bytes < 100 * 2**20


def test_an_upload_to_a_server_that_takes_nothing_ends_in_time() -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()

    async def run() -> Uploaded:
        async with await asyncio.start_server(wait, "127.0.0.1", 0) as server:
            target = Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict")
            sent = await upload(target, bytes(200 * 2**20), timeout_s=0.5)
            ended.set()
            await asyncio.sleep(0)
        return sent

    assert asyncio.run(run()).status is None


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read in /proc")
def test_a_census_tells_the_living_from_the_dead_and_what_they_hold(tmp_path: Path) -> None:
    """In a process of its own, below which nothing else runs."""
    program = """
import os, subprocess, sys
from benchmarks.processes import adopt_orphans
from benchmarks.soak.census import Census, by_role, open_kinds

def only(role, found):
    ((identity, holding),) = [(identity, holding) for identity, holding in found.items() if holding.role == role]
    return identity, holding

adopt_orphans()
held = "import os, time; files = [open(__file__) for _ in range(30)]; print(os.getpid(), flush=True); time.sleep(600)"
path = sys.argv[1]
open(path, "w").write(held)
# What waits for nobody: the shell that has started the other becomes a sleep.
parent = subprocess.Popen(["sh", "-c", f"{sys.executable} {path} & exec sleep 600"], stdout=subprocess.PIPE)
child = int(parent.stdout.readline())
census = Census(os.getpid())
identity, holding = only(f"{os.path.basename(sys.executable)} held.py", census.take())
assert identity.process_id == child
assert holding.descriptors >= 30 and holding.threads >= 1 and holding.resident_bytes > 2**20, holding
assert open_kinds([child])["files"] >= 30
os.kill(child, 9)
while "defunct" not in by_role(census.take()):
    pass
assert only("defunct", census.take())[0] == identity
assert [each.holding.role == "defunct" for each in census.series[identity]][:1] == [False]
parent.kill()
while census.take():
    pass
print("counted")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "held.py")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "counted\n", ran.stderr


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm here")
def test_shared_memory_that_nobody_maps_is_found() -> None:
    from multiprocessing.shared_memory import SharedMemory

    before = shared_memory()
    memory = SharedMemory(create=True, size=4096)
    try:
        assert memory.name in shared_memory() - before
        assert unused([memory.name]) == []
        memory.close()
        assert unused([memory.name]) == [memory.name]
    finally:
        memory.unlink()
    assert memory.name not in shared_memory()
