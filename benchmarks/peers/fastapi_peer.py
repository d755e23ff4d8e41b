"""FastAPI on uvicorn: one process a core, each with the model and one thread for it. No batches.

uvloop and httptools, no access log. The thread leaves the event loop free, and one a process keeps two requests from
fighting for a core. Each process has a socket of its own on the port, over which the kernel spreads connections: with
`uvicorn --workers`, where they share one, a single process took all of 32 connections and half of the machine idled.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.peers import task

KEEP_ALIVE_S = 60


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = task.load_engine()
    with ThreadPoolExecutor(max_workers=1) as app.state.thread:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, Any]:
    return {}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    image = await request.body()
    return await asyncio.get_running_loop().run_in_executor(app.state.thread, classify, image)


def classify(image: bytes) -> dict[str, Any]:
    engine, info = app.state.engine, app.state.engine.info()
    pixels = task.decode(image, info.preprocessing)
    return task.predictions(engine.infer(pixels[None])[0], info.labels)


def serve() -> None:
    config = uvicorn.Config(app, access_log=False, log_level="warning", timeout_keep_alive=KEEP_ALIVE_S)
    with socket.create_server(("127.0.0.1", task.port()), reuse_port=True) as listener:
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    processes = [multiprocessing.get_context("spawn").Process(target=serve, daemon=True) for _ in range(task.workers())]
    for process in processes:
        process.start()
    with suppress(KeyboardInterrupt):
        processes[0].join()
