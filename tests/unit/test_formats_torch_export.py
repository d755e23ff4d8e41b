"""Archives of torch.export, from the directory to logits, and what is refused in them before torch reads it."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.engines import create_engine
from deployments.engines.artefacts import Artefacts
from deployments.engines.golden import made_up_pixels
from deployments.engines.network import Normalized
from deployments.repository import write_manifest
from deployments.settings import PreprocessingSpec
from tests.unit.checkpoints import LABELS, Trap
from tests.unit.kinds import TINY_SPEC, settings
from tests.unit.sentences import sentence_of

SIDE: Final = TINY_SPEC.crop_size
# Of logits around 1.
TOLERANCE: Final = 1e-5
PROGRAM: Final = "models/model.json"
WEIGHTS: Final = "data/weights/model_weights_config.json"
Edit = Callable[[dict[str, bytes]], None]


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APERTURE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return made_up_pixels(TINY_SPEC)[:6]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 15 * 15, len(LABELS)),
    ).eval()


@pytest.fixture(scope="module")
def archives(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Path]:
    """By the batch size that they were exported for; None: any."""
    folder, archives = tmp_path_factory.mktemp("archives"), {}
    for batch in (None, 4):
        shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
        program = torch.export.export(network, (torch.zeros(batch or 2, 3, SIDE, SIDE),), dynamic_shapes=shapes)
        archives[batch] = folder / f"{batch}.pt2"
        torch.export.save(program, archives[batch])
    return archives


def write_version(model: Path, archive: bytes, spec: PreprocessingSpec = TINY_SPEC) -> Path:
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.pt2").write_bytes(archive)
    write_manifest(model / "1", architecture="mine", weights="model.pt2", labels=LABELS, preprocessing=spec)
    return model


@pytest.mark.parametrize("batch", [None, 4])
def test_logits_are_those_of_the_network_that_was_exported(
    tmp_path: Path,
    archives: dict[int | None, Path],
    network: torch.nn.Module,
    pixels: NDArray[np.uint8],
    batch: int | None,
) -> None:
    path = write_version(tmp_path, archives[batch].read_bytes())
    loaded = create_engine(settings(path, engine="torch", max_batch_size=6, on_refusal="fail"))
    with torch.inference_mode():
        expected = Normalized(network, TINY_SPEC)(torch.from_numpy(pixels)).numpy()
    for count in (1, 3, 6):
        np.testing.assert_allclose(loaded.infer(list(pixels[:count])), expected[:count], rtol=0, atol=TOLERANCE)
    info = loaded.info()
    assert (info.engine, info.precision, info.architecture) == ("torch", "fp32", "mine")


def test_no_other_engine_reads_it(tmp_path: Path, archives: dict[int | None, Path]) -> None:
    path = write_version(tmp_path, archives[None].read_bytes())
    sentence = sentence_of(lambda: create_engine(settings(path, engine="onnxruntime")))
    assert "format 'torch_export', which torch, torch-compile do" in sentence


def test_images_of_another_size_are_one_sentence(tmp_path: Path, archives: dict[int | None, Path]) -> None:
    path = write_version(tmp_path, archives[None].read_bytes(), PreprocessingSpec())
    assert "images of 32 pixels, but its preprocessing has crop_size 224" in refusal(path)


def test_what_is_no_classifier_is_one_sentence(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Flatten(0), (torch.zeros(2, 3, SIDE, SIDE),))
    archive = io.BytesIO()
    torch.export.save(program, archive)
    assert "one output (N, classes)" in refusal(write_version(tmp_path, archive.getvalue()))


@pytest.mark.parametrize("kept", [0, 1, 1000, -1000, -1])
def test_an_archive_that_is_cut_off_is_one_sentence(
    tmp_path: Path, archives: dict[int | None, Path], kept: int
) -> None:
    assert "cannot be read" in refusal(write_version(tmp_path, archives[None].read_bytes()[:kept]))


def refusal(path: Path) -> str:
    return sentence_of(lambda: Artefacts(settings(path)).network)


# Code


def in_program(change: Callable[[dict[str, Any]], None]) -> Edit:
    def edit(records: dict[str, bytes]) -> None:
        program = json.loads(records[PROGRAM])
        change(program)
        records[PROGRAM] = json.dumps(program).encode()

    return edit


def pickled_weight(records: dict[str, bytes]) -> None:
    config = json.loads(records[WEIGHTS])
    meta = next(iter(config["config"].values()))
    meta["use_pickle"] = True
    records[WEIGHTS] = json.dumps(config).encode()
    records[f"data/weights/{meta['path_name']}"] = TRAP


def system_call(program: dict[str, Any]) -> None:
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.os.mkdir"
    node["inputs"] = [{"name": "path", "arg": {"as_string": "SPRUNG"}, "kind": 1}]


def shape_with_code(program: dict[str, Any]) -> None:
    code = "__import__('os').mkdir('SPRUNG')"
    for value in program["graph_module"]["graph"]["tensor_values"].values():
        if value["sizes"]:  # Counters of batch norm have none.
            value["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}


def name_with_code(program: dict[str, Any]) -> None:
    text = json.dumps(program).replace('"input"', "\"input=__import__('os').mkdir('SPRUNG')\"")
    program.update(json.loads(text))


def file_of_others(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


TRAP: Final = b"trap"  # Stands for a pickle that makes the directory of the test.
HOSTILE: Final[dict[str, tuple[Edit, str]]] = {
    "a weight": (pickled_weight, "as a pickle, which is never read"),
    "the example inputs": (
        lambda records: records.update({"data/sample_inputs/model.pt": TRAP}),
        "example inputs that are no plain tensors",
    ),
    "an object": (
        lambda records: records.update({"data/constants/opaque_obj_0": TRAP}),
        "'data/constants/opaque_obj_0'",
    ),
    "weights of an older format": (lambda records: records.update({"data/weights/model.pt": TRAP}), "model.pt"),
    "a compiled library": (lambda records: records.update({"data/aotinductor/model/a.so": TRAP}), "aotinductor"),
    "an operator": (in_program(system_call), "has the target 'torch.os.mkdir'"),
    "an operator that opens a file": (in_program(file_of_others), "from_file"),
    "a shape": (in_program(shape_with_code), "has the expr_str "),
    "a name": (in_program(name_with_code), "__import__"),
}


@pytest.mark.parametrize(("edit", "words"), HOSTILE.values(), ids=HOSTILE)
def test_code_in_an_archive_is_refused_and_does_not_run(
    tmp_path: Path, archives: dict[int | None, Path], edit: Edit, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_version(tmp_path / "model", edited(archives[None], edit, tmp_path / "SPRUNG"))
    assert words in refusal(path)
    assert not (tmp_path / "SPRUNG").exists()


def test_the_same_traps_spring_where_torch_reads_the_archive_alone(
    tmp_path: Path, archives: dict[int | None, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sprung = tmp_path / "SPRUNG"
    for edit in (pickled_weight, in_program(shape_with_code)):
        archive = edited(archives[None], edit, sprung)
        with contextlib.suppress(Exception):  # What the trap leaves behind is no network.
            torch.export.load(io.BytesIO(archive))
        assert sprung.exists()
        sprung.rmdir()


def test_code_in_guards_is_never_asked_for(
    tmp_path: Path, archives: dict[int | None, Path], pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guard = in_program(lambda program: program["guards_code"].append("__import__('os').mkdir('SPRUNG') is None"))
    path = write_version(tmp_path / "model", edited(archives[None], guard, tmp_path / "SPRUNG"))
    with torch.inference_mode():
        assert Artefacts(settings(path)).network(torch.from_numpy(pixels)).shape == (6, len(LABELS))
    assert not (tmp_path / "SPRUNG").exists()


def test_an_edited_archive_without_code_is_read(tmp_path: Path, archives: dict[int | None, Path]) -> None:
    path = write_version(tmp_path, edited(archives[None], lambda records: None, tmp_path / "SPRUNG"))
    assert Artefacts(settings(path)).network is not None


def edited(archive: Path, edit: Edit, sprung: Path) -> bytes:
    """The archive with other records, in which every TRAP is a pickle that makes the directory `sprung`."""
    with zipfile.ZipFile(archive) as before:
        root = before.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: before.read(name) for name in before.namelist()}
    edit(records)
    bait = io.BytesIO()
    torch.save(Trap(sprung), bait)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as after:
        for name, content in records.items():
            after.writestr(f"{root}/{name}", bait.getvalue() if content == TRAP else content)
    return written.getvalue()
