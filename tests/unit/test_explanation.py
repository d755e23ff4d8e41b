"""The process that makes heat maps: started when it is asked for, one at a time, given way by, and ended when idle."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines import explanation
from deployments.engines.artefacts import Artefacts
from deployments.engines.explanation import Explainer
from deployments.engines.heat_map import heat_map
from deployments.engines.rehearsal import FIRST_TO_END, NICENESS
from deployments.errors import ConfigError, DeadlineExceeded, InferenceFailed, NotExplainable, Overloaded
from deployments.messages import ModelInfo
from deployments.settings import ModelSettings
from tests.unit.bytes_plane import info as dummy_info
from tests.unit.foreign_graphs import classifier, write_version

SETTINGS = ModelSettings(name="shapes", path="models/shapes", engine="openvino", device="auto", threads=2)
# For a process that has to load torch first, on a machine that is busy.
TIMEOUT_S = 200.0
PIXELS = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)


def shapes_info() -> ModelInfo:
    return Artefacts(SETTINGS).describe("openvino", "fp32", "cpu")


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ended(pid: int) -> None:
    async with asyncio.timeout(20):
        while is_there(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_one_process_makes_heat_maps_one_at_a_time_until_nobody_has_asked_for_a_while() -> None:
    async def run() -> None:
        explainer, info = Explainer(SETTINGS, idle_s=0.2), shapes_info()
        assert explainer.pid is None
        with pytest.raises(DeadlineExceeded):
            await explainer.explain(info, PIXELS, 3, 0.01)
        # What was begun goes on, and is in the way of the next one until it is done.
        with pytest.raises(Overloaded, match="Another heat map") as busy:
            await explainer.explain(info, PIXELS, 3, TIMEOUT_S)
        assert busy.value.retry_after_s is not None
        assert explainer._making is not None
        expected = heat_map(Artefacts(SETTINGS).network, PIXELS, 3)
        np.testing.assert_allclose(await explainer._making, expected, atol=1e-5)

        pid = explainer.pid
        assert pid is not None
        if sys.platform == "linux":
            assert os.getpriority(os.PRIO_PROCESS, pid) >= NICENESS
            assert oom_score_of(pid) == FIRST_TO_END
        np.testing.assert_allclose(await explainer.explain(info, PIXELS, 3, TIMEOUT_S), expected, atol=1e-5)
        assert not np.array_equal(await explainer.explain(info, PIXELS, 4, TIMEOUT_S), expected)
        assert explainer.pid == pid
        await ended(pid)
        assert explainer.pid is None

    asyncio.run(run())


def test_a_process_that_is_killed_fails_one_heat_map_and_not_the_next() -> None:
    async def run() -> None:
        explainer, info = Explainer(SETTINGS), shapes_info()
        making = asyncio.create_task(explainer.explain(info, PIXELS, 3, TIMEOUT_S))
        async with asyncio.timeout(TIMEOUT_S):
            while explainer.pid is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        os.kill(explainer.pid, signal.SIGKILL)
        with pytest.raises(InferenceFailed, match="could not be made"):
            await making
        assert (await explainer.explain(info, PIXELS, 3, TIMEOUT_S)).shape == (4, 4)
        await explainer.close()
        assert explainer.pid is None

    asyncio.run(run())


def test_a_version_that_is_no_torch_network_is_refused_and_from_then_on_without_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path / "graph", classifier())

    async def run() -> None:
        explainer = Explainer(ModelSettings(name="graph", path=str(tmp_path / "graph")))
        info = replace(dummy_info("graph", 1), engine="onnxruntime")
        for _ in range(2):
            with pytest.raises(NotExplainable, match="'onnx'"):
                await explainer.explain(info, PIXELS, 0, TIMEOUT_S)
            monkeypatch.setattr(explanation, "_start", never)
        await explainer.close()

    asyncio.run(run())


async def never() -> Any:
    raise AssertionError("It is known already.")


def test_the_dummy_engine_has_no_network_to_explain() -> None:
    with pytest.raises(NotExplainable, match="no network"):
        asyncio.run(Explainer(SETTINGS).explain(dummy_info("shapes", 1), PIXELS, 0, TIMEOUT_S))


def test_without_memory_nothing_is_started_and_the_figures_stay_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(settings: ModelSettings, version: int) -> None:
        assert (settings.device, version) == ("cpu", 1)
        raise ConfigError("It takes about 704 MiB.")

    monkeypatch.setattr(explanation, "check_fits", too_large)
    monkeypatch.setattr(explanation, "_start", never)
    with pytest.raises(Overloaded, match="no memory") as refusal:
        asyncio.run(Explainer(SETTINGS).explain(shapes_info(), PIXELS, 0, TIMEOUT_S))
    assert "704" not in refusal.value.message
    assert "704" in caplog.text


def test_a_network_that_cannot_be_loaded_fails_without_its_reasons(tmp_path: Path) -> None:
    async def run() -> None:
        explainer = Explainer(ModelSettings(name="shapes", path=str(tmp_path)))
        with pytest.raises(InferenceFailed) as failure:
            await explainer.explain(shapes_info(), PIXELS, 0, TIMEOUT_S)
        assert str(tmp_path) not in failure.value.message
        assert explainer.pid is None

    asyncio.run(run())
