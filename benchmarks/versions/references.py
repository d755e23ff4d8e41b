"""What each version answers, by torchvision's own pipeline and eager float32, which know nothing of Aperture's code."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from benchmarks.chaos.questions import APART, TOLERANCE, Question, candidates, distance

FORMATS: Final = ("PNG", "JPEG")
# Between the answers of two versions to one picture: as many tolerances as leave no doubt whose answer it is.
VERSIONS_APART: Final = 10 * TOLERANCE


@dataclass(frozen=True)
class VersionedQuestion(Question):
    """`answer` is the first version's. `answers`: of every version, by its number."""

    answers: Mapping[int, Mapping[str, float]]

    def is_answered_by(self, answer: Mapping[str, float], version: int) -> bool:
        return version in self.answers and distance(self.answers[version], answer) <= TOLERANCE

    def label(self, version: int) -> str:
        """The first one that it says."""
        return max(self.answers[version], key=self.answers[version].__getitem__)


def questions(directories: Mapping[int, Path], count: int) -> list[VersionedQuestion]:
    """Pictures to which every version has an answer of its own, unlike its answers to the others.

    `directories`: of the versions that will answer. Raises ValueError without so many.
    """
    versions = {version: _Network(directory) for version, directory in sorted(directories.items())}
    first = min(versions)
    chosen: list[VersionedQuestion] = []
    for picture in candidates(4 * count, FORMATS):
        answer = versions[first].answer(picture)
        if any(distance(answer, other.answer) < APART for other in chosen):
            continue
        answers = {version: network.answer(picture) for version, network in versions.items()}
        question = VersionedQuestion(picture, answer, answers)
        if _is_clear(question):
            chosen.append(question)
            if len(chosen) == count:
                return chosen
    raise ValueError(f"Only {len(chosen)} pictures tell versions and pictures apart; {count} are needed.")


def agreement(asked: Sequence[VersionedQuestion], one: int, other: int) -> float:
    """The share of these pictures to which both versions say the same first label."""
    return sum(each.label(one) == each.label(other) for each in asked) / len(asked)


def difference(question: VersionedQuestion, one: int, other: int) -> float:
    """The largest of a probability."""
    return distance(question.answers[one], question.answers[other])


def _is_clear(question: VersionedQuestion) -> bool:
    numbers = list(question.answers)
    return all(
        difference(question, one, other) >= VERSIONS_APART for one in numbers for other in numbers if one < other
    )


class _Network:
    def __init__(self, directory: Path) -> None:
        manifest = yaml.safe_load((directory / "model.yaml").read_text())
        spec = manifest["preprocessing"]
        self._labels = manifest["labels"]
        self._transform = Compose(
            [
                Resize(spec["resize_size"]),
                CenterCrop(spec["crop_size"]),
                ToTensor(),
                Normalize(spec["mean"], spec["std"]),
            ]
        )
        self._network = torchvision.models.get_model(manifest["architecture"], num_classes=len(self._labels))
        self._network.load_state_dict(load_file(directory / manifest["weights"]))
        self._network.eval()

    @torch.inference_mode()
    def answer(self, encoded: bytes) -> dict[str, float]:
        """Probability by label."""
        pixels = self._transform(Image.open(io.BytesIO(encoded)).convert("RGB"))
        probabilities = torch.softmax(self._network(pixels[None])[0], dim=0)
        return dict(zip(self._labels, probabilities.tolist(), strict=True))
