"""examples/finetune.py in miniature: a directory of pictures in, a directory that the service serves out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.engines import create_engine
from deployments.settings import ModelSettings, Settings
from examples.shape_pictures import LABELS, draw_shape
from scripts.check_config import check_config

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"blue": (20, 30, 220), "red": (230, 25, 20)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what training needs, so that the test writes nothing into the project, and 2 x 60 pictures."""
    root = tmp_path_factory.mktemp("project")
    for directory in ("examples", "deployments", "configs"):
        shutil.copytree(ROOT / directory, root / directory, ignore=shutil.ignore_patterns("__pycache__"))
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (root / "pictures" / label).mkdir(parents=True)
        for number in range(60):
            noisy = np.clip(np.array(colour) + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / "pictures" / label / f"{number}.png")
    options = ["--architecture", "shufflenet_v2_x0_5", "--start-from", "none", "--crop-size", "64", "--epochs", "6"]
    command = [sys.executable, "-m", "examples.finetune", "--data", "pictures", "--name", "colours", *options]
    command += ["--batch-size", "8", "--workers", "0", "--learning-rate", "0.1"]
    subprocess.run(command, cwd=root, check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return root


def test_a_folder_of_pictures_becomes_a_model_that_tells_them_apart(workspace: Path) -> None:
    engine = create_engine(ModelSettings(name="colours", path=str(workspace / "models/colours")))
    assert engine.info().labels == ("blue", "red")
    batch = np.stack([np.full((64, 64, 3), colour, dtype=np.uint8) for colour in COLOURS.values()])
    assert engine.infer(batch).argmax(axis=1).tolist() == [0, 1]


def test_training_writes_a_config_that_serves_the_new_model(workspace: Path) -> None:
    config = check_config(workspace / "configs/colours.yaml")
    settings = Settings.model_validate(config.applications[0].args)
    assert [(model.name, model.path) for model in settings.models] == [("colours", "models/colours")]


@pytest.mark.parametrize("label", LABELS)
def test_a_drawing_is_the_same_for_the_same_seed_and_another_for_another(label: str) -> None:
    first, again, other = draw_shape(label, 1), draw_shape(label, 1), draw_shape(label, 2)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
