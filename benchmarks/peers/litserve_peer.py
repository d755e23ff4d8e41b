"""LitServe: worker processes that each decode and classify a batch, with one uvicorn process in front.

Bytes come in as they are instead of as base64 in JSON. One process is plenty for HTTP at these rates, and
the fast queue took less CPU time an image than the default under 1, 8 and 32 callers.
"""

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body
from numpy.typing import NDArray

from benchmarks.peers import task
from deployments.messages import Logits, Pixels

# A lone request waits for the rest of a window of this length; one four times as long saved no CPU time.
BATCH_TIMEOUT_S = 0.005


class Classify(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.engine = task.load_engine()
        self.info = self.engine.info()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Pixels:
        return task.decode(request, self.info.preprocessing)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.engine.infer(x)

    def encode_response(self, output: Logits) -> dict[str, Any]:
        return task.predictions(output, self.info.labels)


if __name__ == "__main__":
    api = Classify(
        max_batch_size=task.settings().max_batch_size,
        batch_timeout=BATCH_TIMEOUT_S,
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=task.workers(),
        fast_queue=True,
    )
    server.run(
        port=task.port(),
        host="127.0.0.1",
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
