"""Batches on a GPU: while one is computed, the next is copied in.

A lane is all that one batch needs at a time: pinned and device memory, a stream, and a CUDA graph for each batch size.
Every thread inside `run` has a lane to itself, so nothing here is shared but the weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.engines.base import Images, next_size, note_padding

Network = Callable[[torch.Tensor], torch.Tensor]  # uint8 (N, H, W, 3) to float32 (N, classes)

# One computes while the other copies; a third would only wait, since a batch of images fills a GPU.
LANES: Final = 2
# As in torch's notes on CUDA graphs: libraries choose kernels and allocate workspaces in the first runs.
RUNS_BEFORE_CAPTURE: Final = 3


class Lanes:
    """Runs a batch on whichever lane is free, and waits for one if none is."""

    def __init__(self, lanes: Sequence["Lane"]) -> None:
        self.count = len(lanes)
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def run(self, images: Images) -> NDArray[np.float32]:
        with self._one() as lane:
            return lane.run(images)

    @contextmanager
    def _one(self) -> Iterator["Lane"]:
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)


class Lane:
    """One batch at a time through memory that stays where it is. On the CPU it computes eagerly."""

    def __init__(
        self, network: Network, sizes: Sequence[int], side: int, classes: int, device: torch.device | str = "cpu"
    ) -> None:
        """`sizes` ascend; images are uint8 (side, side, 3) and logits (classes,)."""
        self._network, self._sizes = network, sizes
        most, on_gpu = sizes[-1], torch.device(device).type == "cuda"
        # Copies from and to other memory than pinned would block this thread and the GPU.
        self._host_pixels = torch.zeros((most, side, side, 3), dtype=torch.uint8, pin_memory=on_gpu)
        self._host_logits = torch.zeros((most, classes), pin_memory=on_gpu)
        self._pixels = torch.zeros((most, side, side, 3), dtype=torch.uint8, device=device)
        self._logits = torch.zeros((most, classes), device=device)

    @torch.inference_mode()
    def run(self, images: Images) -> NDArray[np.float32]:
        count = len(images)
        np.stack(list(images), out=self._host_pixels.numpy()[:count])
        self._forward(count)
        logits: NDArray[np.float32] = self._host_logits[:count].numpy().copy()  # (N, classes)
        return logits

    def _forward(self, count: int) -> None:
        """From the host's pixels to the host's logits. What earlier batches left behind them is the padding."""
        self._pixels[:count].copy_(self._host_pixels[:count], non_blocking=True)
        size = next_size(count, self._sizes)
        note_padding(size - count)
        self._compute(size)
        self._host_logits[:count].copy_(self._logits[:count], non_blocking=True)

    def _compute(self, size: int) -> None:
        self._logits[:size].copy_(self._network(self._pixels[:size]))


class GraphLane(Lane):
    """On the GPU, where a batch is one launch of a CUDA graph instead of one for each kernel."""

    @torch.inference_mode()
    def __init__(self, network: Network, sizes: Sequence[int], side: int, classes: int) -> None:
        super().__init__(network, sizes, side, classes, "cuda")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # A thread that waits for it sleeps, without the GIL; by default it would spin on a core that decodes images.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        # The memory above was zeroed on another stream.
        torch.cuda.synchronize()
        for size in reversed(sizes):  # So that the smaller find their memory in the pool.
            self._graphs[size] = self._capture(size)

    def _forward(self, count: int) -> None:
        with torch.cuda.stream(self._stream):
            super()._forward(count)
            self._done.record()
        self._done.synchronize()

    def _compute(self, size: int) -> None:
        self._graphs[size].replay()

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        with torch.cuda.stream(self._stream):
            for _ in range(RUNS_BEFORE_CAPTURE):
                super()._compute(size)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            super()._compute(size)
        return graph


def graph_lanes(network: Network, sizes: Sequence[int], side: int, classes: int) -> Lanes:
    """Captured for every batch size. `network` is on the GPU."""
    # Shapes are the same for every batch of a size, so that trying all of cuDNN's algorithms once pays.
    torch.backends.cudnn.benchmark = True
    # fp32 means fp32, while cuDNN's default rounds the products of convolutions to 10 bits of mantissa. The older of
    # torch's two sets of switches, because parts of torch 2.15 still read it and refuse to once the newer is used.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return Lanes([GraphLane(network, sizes, side, classes) for _ in range(LANES)])
