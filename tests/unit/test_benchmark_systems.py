"""What is compared is comparable: the same answers, valid configs, pictures like photographs, all processes counted."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import check_same_answers, rotated
from benchmarks.pictures import HEIGHT, WIDTH, made_up, photographs
from benchmarks.subjects import model_args
from benchmarks.systems import aperture_config
from deployments.imaging import open_checked
from deployments.settings import Limits, ModelSettings, Settings

ROOT = Path(__file__).resolve().parents[2]


def answers(*ranked: tuple[int, float]) -> list[list[dict[str, Any]]]:
    """To one photograph."""
    return [[{"label": str(index), "index": index, "probability": probability} for index, probability in ranked]]


def test_answers_within_rounding_of_each_other_are_the_same() -> None:
    check_same_answers({"one": answers((7, 0.6), (3, 0.2)), "other": answers((7, 0.6004), (3, 0.1995))})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(answers((3, 0.6), (7, 0.2)), id="another class first"),
        pytest.param(answers((7, 0.6), (3, 0.21)), id="a probability too far off"),
    ],
)
def test_answers_that_differ_are_refused(other: list[list[dict[str, Any]]]) -> None:
    with pytest.raises(RuntimeError, match="answer differently to photograph 0"):
        check_same_answers({"one": answers((7, 0.6), (3, 0.2)), "other": other})


def test_every_system_comes_first_once() -> None:
    names = ["a", "b", "c"]
    orders = [rotated(names, number) for number in range(3)]
    assert [order[0] for order in orders] == names
    assert all(sorted(order) == names for order in orders)


def test_made_up_pictures_are_jpegs_of_the_size_of_photographs_and_the_same_for_the_same_seed() -> None:
    picture = open_checked(made_up(4), Limits())
    assert (picture.format, picture.size) == ("JPEG", (WIDTH, HEIGHT))
    assert 80_000 < len(made_up(4)) < 150_000
    assert made_up(4) == made_up(4) != made_up(5)


def test_a_folder_of_pictures_is_read_in_order_and_an_empty_one_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no pictures"):
        photographs(str(tmp_path))
    (tmp_path / "b.JPEG").write_bytes(b"2")
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "README.md").write_bytes(b"3")
    assert photographs(str(tmp_path)) == [b"1", b"2"]


@pytest.mark.parametrize("batch_size", [pytest.param(8, id="the usual batch"), pytest.param(64, id="a large batch")])
def test_the_config_of_a_measurement_is_valid(batch_size: int) -> None:
    model = model_args("models/shapes", engine="torch", precision="fp32", threads=2, max_batch_size=batch_size)
    (application,) = aperture_config(model, replicas=3)["applications"]
    assert Settings.model_validate(application["args"]).models == (ModelSettings.model_validate(model),)
    classifier = application["deployments"][-1]
    assert (classifier["name"], classifier["num_replicas"]) == ("shapes", 3)
    assert classifier["max_ongoing_requests"] >= 2 * batch_size
    assert classifier["user_config"]["max_batch_size"] == batch_size


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
def test_a_process_that_detaches_itself_is_still_counted_and_stopped() -> None:
    """In a process of its own, which keeps the orphans of this test run away from it."""
    program = """
import os, subprocess
from benchmarks.processes import adopt_orphans, cpu_s, descendants, stop_all

adopt_orphans()
daemon = int(subprocess.check_output(["sh", "-c", "sleep 600 >/dev/null & echo $!"], start_new_session=True))
assert daemon in descendants(os.getpid())
assert cpu_s(descendants(os.getpid())) >= 0
stop_all(descendants(os.getpid()), timeout_s=60)
assert descendants(os.getpid()) == []
print("stopped")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "stopped\n", ran.stderr
