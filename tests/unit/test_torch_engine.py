"""The torch engines against the reference on a CPU: folded, in bfloat16, compiled. For GPUs see test_cuda_lanes.py."""

import logging
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from deployments.engines.artefacts import Artefacts
from deployments.engines.base import Engine
from deployments.engines.loading import load
from deployments.engines.network import Folded, Normalized, fold_batch_norm
from deployments.engines.registry import Build, Choice
from deployments.engines.torch_engine import TorchEngine
from deployments.settings import Precision
from tests.unit.checkpoints import LABELS, SPEC, settle
from tests.unit.kinds import settings
from tests.unit.sentences import sentence_of

Logits = NDArray[np.float32]
NetworkBuilder = Callable[[], torch.nn.Module]


def of_torchvision(architecture: str, **options: object) -> NetworkBuilder:
    return partial(torchvision.models.get_model, architecture, weights=None, num_classes=len(LABELS), **options)


def small_transformer() -> torch.nn.Module:
    size = {"image_size": 64, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    module: torch.nn.Module = torchvision.models.VisionTransformer(**size, num_classes=len(LABELS))
    torch.nn.init.normal_(module.get_submodule("heads.head").weight)  # type: ignore[arg-type]
    return module


def small_swin() -> torch.nn.Module:
    size = {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4]}
    module: torch.nn.Module = torchvision.models.SwinTransformer(**size, num_classes=len(LABELS))
    return module


def small_vgg() -> torch.nn.Module:
    # Of torchvision's, most of the weights are in the layers behind these.
    features = torchvision.models.vgg.make_layers([16, "M", 32, "M", 64, "M"], batch_norm=True)
    return torch.nn.Sequential(features, torch.nn.Flatten(), torch.nn.Linear(64 * 8 * 8, len(LABELS)))


class Branching(torch.nn.Module):
    """Takes one way for bright images and another for dark ones, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        activations: torch.Tensor = self.norm(self.convolution(images)).mean(dim=(2, 3))
        return activations if images.mean() > 0 else -activations


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with batch norms that do something: those of an untrained one barely differ from none."""
    torch.manual_seed(5)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.2, 0.2)
    return settle(module)


def batch_norms(module: torch.nn.Module) -> int:
    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())


def reference_logits(module: torch.nn.Module, pixels: NDArray[np.uint8]) -> Logits:
    with torch.inference_mode():
        logits: Logits = Normalized(module, SPEC).eval()(torch.from_numpy(pixels)).numpy()
    return logits


# Folding

FAMILIES = {
    "resnet": of_torchvision("resnet18"),
    "shufflenet": of_torchvision("shufflenet_v2_x0_5"),
    "mobilenet v2": of_torchvision("mobilenet_v2"),
    "mobilenet v3": of_torchvision("mobilenet_v3_small"),
    "mnasnet": of_torchvision("mnasnet0_5"),
    "efficientnet": of_torchvision("efficientnet_b0"),
    "regnet": of_torchvision("regnet_y_400mf"),
    "densenet": of_torchvision("densenet121"),
    "googlenet": of_torchvision("googlenet", init_weights=False),
    "squeezenet": of_torchvision("squeezenet1_1"),
    "vgg with batch norm": small_vgg,
    "vision transformer": small_transformer,
    "swin transformer": small_swin,
}


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_a_folded_network_answers_as_the_reference(build: NetworkBuilder, pixels: NDArray[np.uint8]) -> None:
    module = trained(build())
    expected = reference_logits(module, pixels[:2])
    with torch.inference_mode():
        logits = Folded(Normalized(module, SPEC).eval(), "fp32")(torch.from_numpy(pixels[:2])).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    # Otherwise it would hold for a network that ignores its input.
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("family", "left"),
    # DenseNet normalises in front of its convolutions, too, where nothing can be folded.
    [("resnet", 0), ("shufflenet", 0), ("mobilenet v3", 0), ("densenet", 62)],
)
def test_no_batch_norm_is_left_behind_a_convolution(family: str, left: int) -> None:
    module = FAMILIES[family]().eval()
    assert batch_norms(module) > left
    assert batch_norms(fold_batch_norm(module)) == left


def test_a_network_that_cannot_be_traced_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    module = trained(Branching())
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        copied = fold_batch_norm(module)
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "Batch norm is not folded into the convolutions"
    ]
    images = torch.randn(2, 3, 8, 8)
    assert copied is not module
    torch.testing.assert_close(copied(images), module(images), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_leaves_the_reference_as_it_was(
    model_path: Path, pixels: NDArray[np.uint8], precision: Precision
) -> None:
    artefacts = Artefacts(settings(model_path))
    reference = artefacts.network
    tensors = [*reference.parameters(), *reference.buffers()]
    before = [(tensor.clone(), tensor.dtype, tensor.stride()) for tensor in tensors]
    TorchEngine(Build(artefacts, precision, "cpu", 1)).infer(pixels[:2])
    assert artefacts.network is reference
    for tensor, (value, dtype, stride) in zip(tensors, before, strict=True):
        assert (tensor.dtype, tensor.stride()) == (dtype, stride)
        torch.testing.assert_close(tensor, value, rtol=0, atol=0)


# Threads


@pytest.fixture
def thread_count() -> Iterator[None]:
    """Leaves the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_a_new_thread(call: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result()


@pytest.mark.usefixtures("thread_count")
def test_whichever_thread_infers_has_the_threads_of_its_engine(model_path: Path, pixels: NDArray[np.uint8]) -> None:
    artefacts = Artefacts(settings(model_path))
    engines = {threads: TorchEngine(Build(artefacts, "fp32", "cpu", threads)) for threads in (2, 1)}

    def threads_of(engine: Engine) -> int:
        engine.infer(pixels[:1])
        return torch.get_num_threads()

    for threads, engine in engines.items():
        assert threads_of(engine) == threads
        assert in_a_new_thread(partial(threads_of, engine)) == threads


@pytest.mark.usefixtures("thread_count")
def test_an_image_that_is_alone_has_threads_of_its_own(model_path: Path, pixels: NDArray[np.uint8]) -> None:
    engine = TorchEngine(Build(Artefacts(settings(model_path)), "fp32", "cpu", threads=1, lone_threads=2))
    counts = []
    for count in (1, 2, 1):
        engine.infer(pixels[:count])
        counts.append(torch.get_num_threads())
    assert counts == [2, 1, 2]


# Precision


def test_bfloat16_answers_with_float32_near_the_reference(
    model_path: Path, network: torch.nn.Module, pixels: NDArray[np.uint8]
) -> None:
    expected = reference_logits(network, pixels[:4])
    artefacts = Artefacts(settings(model_path, max_batch_size=4))
    logits = TorchEngine(Build(artefacts, "bf16", "cpu", 1)).infer(pixels[:4])
    assert logits.dtype == np.dtype("float32")
    difference, scale = np.abs(logits - expected).max(), np.abs(expected).max()
    # bf16 keeps 8 bits of a number: below a tenth of that error it would have computed in more. Noise through random
    # layers multiplies it, and a wrong network would differ by as much as the logits themselves.
    assert scale * 2**-12 < difference < scale * 2**-2


# Compiling


def tiny(artefacts: Artefacts) -> Normalized:
    """A network that compiles in seconds, in place of the one whose artefacts these are."""
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    module = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, len(LABELS)))
    network = Normalized(trained(module), SPEC).eval()
    artefacts.network = network
    return network


@pytest.fixture
def inductor_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What torch reads from the environment stays that of this test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(own_cache))
    return own_cache


# The slow one: the compiler runs twice, for single images and for batches.
def test_a_compiled_network_answers_as_the_reference_at_every_batch_size(
    model_path: Path, inductor_cache: Path, pixels: NDArray[np.uint8]
) -> None:
    artefacts = Artefacts(settings(model_path, max_batch_size=4))
    reference = tiny(artefacts)
    engine = TorchEngine(Build(artefacts, "fp32", "cpu", 1), compiled=True)
    for size in engine.batch_sizes():
        with torch.inference_mode():
            expected = reference(torch.from_numpy(pixels[:size])).numpy()
        np.testing.assert_allclose(engine.infer(pixels[:size]), expected, rtol=0, atol=1e-5)
    assert any(path.suffix == ".so" for path in inductor_cache.glob("*/torch-compile/**/*"))


def test_a_missing_compiler_is_refused_with_the_way_out(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    build = Build(Artefacts(settings(model_path)), "fp32", "cpu", 1)
    sentence = sentence_of(lambda: TorchEngine(build, compiled=True))
    for words in ("'shapes'", "'no-such-compiler'", "not installed", "engine to 'torch'"):
        assert words in sentence


def test_a_compiler_that_fails_is_refused_in_one_sentence(
    model_path: Path, inductor_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    compiler = tmp_path / "failing-compiler"
    compiler.write_text("#!/bin/sh\necho 'internal compiler error. Please report.' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(config.cpp, "cxx", (str(compiler),))
    artefacts = Artefacts(settings(model_path, max_batch_size=1))
    tiny(artefacts)
    sentence = sentence_of(lambda: load(artefacts, Choice("torch-compile", "fp32"), "cpu"))
    assert sentence.startswith("Model 'shapes' cannot run on torch-compile fp32: ")
