"""What Ray Data runs on batches of images: read, preprocess, classify, write.

A batch is a dict of columns of equal length. An image that is refused keeps its row, with `error` and `code` in place
of predictions, and goes through the rest untouched.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.decoding import Decoders
from deployments.engines import create_engine
from deployments.errors import ApertureError, BodyTooLarge, CorruptImage
from deployments.messages import Answer, Logits, Pixels, Stages
from deployments.protocols.predict import predictions_of
from deployments.served import ServedVersion
from deployments.settings import Limits, ModelSettings, PreprocessingSpec
from examples.offline_parts import SCHEMA, row_of, write_part
from examples.offline_sources import READ_IMAGES, Source

Columns = dict[str, NDArray[Any]]
# Nothing that lies on a disk has a deadline; a decoder is stopped by limits.decode_timeout_s all the same.
NEVER = float("inf")


def rows_of(items: Any, source: Source, done: frozenset[str]) -> Iterator[Columns]:
    """The images of work items: `id`, and `image`, its bytes; or `is_file`, since the bytes are in the file `id`."""
    columns: Columns = items
    rows: list[tuple[str, bytes | None]] = []
    names = list(columns)
    for values in zip(*(columns[name] for name in names), strict=True):
        for row in source.read(dict(zip(names, values, strict=True))):
            if row[0] not in done:
                rows.append(row)
            if len(rows) == READ_IMAGES:
                yield _as_columns(rows)
                rows = []
    if rows:
        yield _as_columns(rows)


class Preprocess:
    """Adds `pixels`, uint8 (N, crop_size, crop_size, 3), and drops `image`."""

    def __init__(self, limits: Limits, spec: PreprocessingSpec, threads: int) -> None:
        self._limits, self._spec = limits, spec
        self._decoders = Decoders(limits, threads)
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: Columns) -> Columns:
        outcomes = self._loop.run_until_complete(self._all(batch))
        side = self._spec.crop_size
        pixels = np.zeros((len(outcomes), side, side, 3), np.uint8)
        for row, outcome in zip(pixels, outcomes, strict=True):
            if not isinstance(outcome, ApertureError):
                row[:] = outcome
        return {"id": batch["id"], "pixels": pixels, **_refusals(outcomes)}

    def close(self) -> None:
        """An actor need not: what it has ends with it."""
        self._decoders.close()
        self._loop.close()

    async def _all(self, batch: Columns) -> Sequence[Pixels | ApertureError]:
        return await asyncio.gather(*map(self._one, batch["id"], batch["image"], batch["is_file"]))

    async def _one(self, name: str, image: bytes, is_file: bool) -> Pixels | ApertureError:
        try:
            encoded = await asyncio.to_thread(self._read, name) if is_file else self._checked(image)
        except ApertureError as refusal:
            return refusal
        return (await self._decoders.preprocess(encoded, self._spec, NEVER)).outcome

    def _read(self, name: str) -> bytes:
        try:
            self._check_size(os.path.getsize(name))
            return Path(name).read_bytes()
        except OSError as err:
            raise CorruptImage(f"The file cannot be read: {err.strerror}.") from err

    def _checked(self, image: bytes) -> bytes:
        self._check_size(len(image))
        return image

    def _check_size(self, size_bytes: int) -> None:
        most = self._limits.max_body_bytes
        if size_bytes > most:
            raise BodyTooLarge(f"The image is larger than the {most} bytes that limits.max_body_bytes allows.")


class Classify:
    """Replaces `pixels` by the rows of the output."""

    def __init__(self, model: ModelSettings, version: int, top_k: int, root: Path) -> None:
        # What paths in a config are relative to.
        os.chdir(root)
        self._served = ServedVersion(create_engine(model, version), model, nullcontext, [])
        self._top_k = top_k
        self._loop = asyncio.new_event_loop()
        # In one batch with others an image may fail, and is then run alone (batching.py).
        self._most = model.max_batch_size * self._served.runners

    def __call__(self, batch: Columns) -> pa.Table:
        return self._loop.run_until_complete(self._classified(batch))

    def close(self) -> None:
        """As `Preprocess.close`."""
        self._served.close()
        self._loop.close()

    async def _classified(self, batch: Columns) -> pa.Table:
        turns = asyncio.Semaphore(2 * self._most)
        rows = await asyncio.gather(*(self._row(batch, index, turns) for index in range(len(batch["id"]))))
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    async def _row(self, batch: Columns, index: int, turns: asyncio.Semaphore) -> dict[str, Any]:
        name, code = str(batch["id"][index]), str(batch["code"][index])
        if code:
            return row_of(name, self._served.info, error=str(batch["error"][index]), code=code)
        async with turns:
            outcome = await self._outcome(np.ascontiguousarray(batch["pixels"][index]))
        if isinstance(outcome, ApertureError):
            return row_of(name, self._served.info, error=outcome.message, code=outcome.code)
        answer = Answer.of(self._served.info, outcome, Stages(0.0, 0.0, 0.0))
        return row_of(name, self._served.info, predictions_of(answer, self._top_k))

    async def _outcome(self, pixels: Pixels) -> Logits | ApertureError:
        try:
            return (await self._served.gate.submit(pixels)).result
        except ApertureError as refusal:
            return refusal


class Write:
    """Puts a block into a file of the output; the figures of it go on."""

    def __init__(self, output: Path) -> None:
        self._output = output.resolve()

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        table = pa.table(dict(batch), schema=SCHEMA) if not isinstance(batch, pa.Table) else batch
        # Of what is in it, so that a block that is computed twice, because a node died, is there once.
        name = hashlib.sha256("\n".join(table.column("id").to_pylist()).encode()).hexdigest()[:32]
        write_part(self._output, name, table)
        return {"images": np.array([table.num_rows])}


def _refusals(outcomes: Sequence[Pixels | ApertureError]) -> Columns:
    """Empty strings for images that were not refused: a column of nothing at all would have no type."""
    refusals = [outcome if isinstance(outcome, ApertureError) else None for outcome in outcomes]
    return {
        "error": np.array(["" if refusal is None else refusal.message for refusal in refusals], object),
        "code": np.array(["" if refusal is None else refusal.code for refusal in refusals], object),
    }


def _as_columns(rows: Sequence[tuple[str, bytes | None]]) -> Columns:
    ids, images = np.empty(len(rows), object), np.empty(len(rows), object)
    for index, (name, image) in enumerate(rows):
        # Ray Data would make a number of a None.
        ids[index], images[index] = name, image or b""
    return {"id": ids, "image": images, "is_file": np.array([image is None for _, image in rows])}
