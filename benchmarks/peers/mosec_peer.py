"""mosec: a stage that decodes and a stage that runs the model in batches, with its Rust server in front.

Bytes come in as they are instead of as JSON. As many decoding processes as there are of the model, since the fastest
models keep one busy; they sleep when there is nothing to decode.
"""

import os

from mosec import Server, Worker

from benchmarks.peers import task
from deployments.messages import Logits, Pixels

# The least there is. Batches fill while the model is busy; waiting longer only delays a lone request.
MAX_WAIT_MS = 1


class Decode(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.spec = task.load_spec()

    def deserialize(self, data: bytes) -> bytes:
        return bytes(data)  # mosec hands over a bytearray.

    def forward(self, data: bytes) -> Pixels:
        return task.decode(data, self.spec)


class Classify(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.engine = task.load_engine()
        self.labels = self.engine.info().labels

    def forward(self, data: list[Pixels]) -> list[dict[str, object]]:
        logits: list[Logits] = list(self.engine.infer(data))
        return [task.predictions(each, self.labels) for each in logits]


if __name__ == "__main__":
    os.environ |= {"MOSEC_PORT": str(task.port()), "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_TIMEOUT": "30000"}
    server = Server()
    server.append_worker(Decode, num=task.workers(), route="/predict")
    server.append_worker(
        Classify,
        num=task.workers(),
        max_batch_size=task.settings().max_batch_size,
        max_wait_time=MAX_WAIT_MS,
        route="/predict",
    )
    server.run()
