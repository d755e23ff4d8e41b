"""Trains a torchvision classifier and writes a directory that the service serves as it is.

    python -m examples.finetune                                   the bundled model, on pictures drawn by shape_pictures
    python -m examples.finetune --data DIR --name flowers         your pictures: DIR/<class>/<picture>

Either writes models/NAME/<next version>/ (weights, model.yaml, golden/) and, for a new name, configs/NAME.yaml. SGD
with momentum and a cosine schedule; accuracy, the confusion matrix and the golden pictures, on which the service
compares engines, are of what training never saw, preprocessed as when serving. What the model answers to the golden
pictures is recorded beside them (golden.npz), and the service refuses a version that does not reproduce it.

    python -m examples.finetune --golden-only models/shapes/1     trains nothing: golden/ for a version that has none,
                                                                  and a recording of what the version answers now
"""

import argparse
import math
import shutil
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from deployments.engines.golden import GOLDEN
from deployments.engines.recorded import record
from deployments.engines.sources import pretrained_state, read_state
from deployments.errors import ConfigError
from deployments.repository import write_manifest
from deployments.settings import ModelSettings, PreprocessingSpec
from examples.recording import record_version, reference
from examples.training_data import Split, folder_splits, shape_splits

ROOT = Path(__file__).resolve().parent.parent
# Of the training time, spent on raising the learning rate from zero; without it the first steps of SGD diverge.
WARMUP_SHARE = 0.05


def main() -> None:
    try:
        finetune(parse_arguments())
    except ConfigError as err:
        raise SystemExit(str(err)) from None


def finetune(args: argparse.Namespace) -> None:
    if args.golden_only:
        record_version(args.golden_only, lambda spec: splits(args, spec)[1])
        return
    spec = PreprocessingSpec(resize_size=args.resize_size or args.crop_size, crop_size=args.crop_size)
    train, held_out = splits(args, spec)
    print(f"{len(train.labels)} classes, {len(train.pictures)} pictures to train on, {len(held_out.pictures)} held out")
    torch.manual_seed(args.seed)
    model = build_model(args.architecture, len(train.labels), args.start_from)
    fit(model, train, spec, args)
    # Before the evaluation, whose failure must not cost the training.
    directory = export(model, args.architecture, args.name, held_out, spec)
    config = write_config(args.name)
    print(f"Wrote {directory.relative_to(ROOT)}. To serve it: make serve CONFIG={config.relative_to(ROOT)}")
    report(evaluate(model, held_out, spec, args.batch_size), train.labels)


def splits(args: argparse.Namespace, spec: PreprocessingSpec) -> tuple[Split, Split]:
    """The pictures to train on, and those held out."""
    return folder_splits(args.data, spec) if args.data else shape_splits(args.pictures, args.held_out, spec)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a directory with one subdirectory of pictures per class")
    parser.add_argument("--name", help="name of the model (default: shapes, or the name of the data directory)")
    parser.add_argument("--architecture", help="any torchvision classifier (default: shufflenet_v2_x0_5 or resnet18)")
    parser.add_argument("--start-from", help="none, DEFAULT (pretrained, downloaded) or a .pth/.safetensors file")
    parser.add_argument("--crop-size", type=int, help="side of the model's input in pixels (default: 128 or 224)")
    parser.add_argument("--resize-size", type=int, help="shorter side before the crop (default: the crop size)")
    parser.add_argument("--pictures", type=int, default=160_000, help="pictures to draw when there is no --data")
    parser.add_argument("--held-out", type=int, default=5_000, help="pictures to draw for the final accuracy")
    parser.add_argument("--epochs", type=int, default=10, help="passes over --data; drawn pictures are never repeated")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=None, help="peak (default: 0.08, or 0.01 with --data)")
    parser.add_argument("--seed", type=int, default=0, help="of first weights, order and crops (default: 0)")
    parser.add_argument("--golden-only", type=Path, metavar="DIR", help="models/NAME/VERSION to record")
    parser.add_argument("--workers", type=int, default=2, help="processes that read or draw pictures")
    args = parser.parse_args()
    own_data = args.data is not None
    args.name = args.name or (args.data.resolve().name if own_data else "shapes")
    check_name(args.name)
    args.architecture = args.architecture or ("resnet18" if own_data else "shufflenet_v2_x0_5")
    args.start_from = args.start_from or ("DEFAULT" if own_data else "none")
    args.crop_size = args.crop_size or (224 if own_data else 128)
    args.learning_rate = args.learning_rate or (0.01 if own_data else 0.08)
    args.epochs = args.epochs if own_data else 1
    return args


def check_name(name: str) -> None:
    """Raises ConfigError if the service would refuse a model of this name."""
    try:
        ModelSettings(name=name, path=f"models/{name}")
    except ConfigError as err:
        raise ConfigError(f"Give another --name: {err}") from None


def build_model(architecture: str, classes: int, start_from: str) -> nn.Module:
    """The architecture with a new head; all other parameters from `start_from` where their shapes agree."""
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    if start_from == "none":
        return model
    given = pretrained_state(architecture) if start_from == "DEFAULT" else read_state(Path(start_from))
    own = model.state_dict()
    tensors = {key: value for key, value in given.items() if key in own and isinstance(value, Tensor)}
    matching = {key: value for key, value in tensors.items() if own[key].shape == value.shape}
    model.load_state_dict(matching, strict=False)
    print(f"Took {len(matching)} of {len(own)} tensors from {start_from}")
    return model


def fit(model: nn.Module, train: Split, spec: PreprocessingSpec, args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loader = training_batches(train, args.batch_size, args.workers)
    steps = len(loader) * args.epochs
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_then_cosine(step, steps))
    smooth_loss = math.nan
    with tqdm(total=steps, desc="training", mininterval=5) as progress:
        for pixels, target in chain.from_iterable(repeat(loader, args.epochs)):
            output = model(normalize(pixels.to(device), spec))
            logits = output if isinstance(output, Tensor) else output.logits  # Inception and GoogLeNet return a tuple.
            loss = nn.functional.cross_entropy(logits, target.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            smooth_loss = loss.item() if math.isnan(smooth_loss) else 0.98 * smooth_loss + 0.02 * loss.item()
            progress.set_postfix(loss=f"{smooth_loss:.3f}", refresh=False)
            progress.update()


def training_batches(train: Split, batch_size: int, workers: int) -> DataLoader[Any]:
    """Whole batches only, since batch norm cannot train on a last one of a single picture; always at least one."""
    return DataLoader(
        train.pictures,
        min(batch_size, len(train.pictures)),
        shuffle=not train.pictures.in_order,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )


def warmup_then_cosine(step: int, steps: int) -> float:
    warmup = max(1, int(steps * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.inference_mode()
def evaluate(model: nn.Module, held_out: Split, spec: PreprocessingSpec, batch_size: int) -> Tensor:
    """The confusion matrix (true class, predicted class) on the held-out pictures, as counts."""
    device = next(model.parameters()).device
    model.eval()
    confusion = torch.zeros(len(held_out.labels), len(held_out.labels), dtype=torch.int64)
    for pixels, target in tqdm(DataLoader(held_out.pictures, batch_size), desc="held out", mininterval=5):
        predicted = model(normalize(pixels.to(device), spec)).argmax(dim=1).cpu()
        for true, guess in zip(target.tolist(), predicted.tolist(), strict=True):
            confusion[true, guess] += 1
    return confusion


def normalize(pixels: Tensor, spec: PreprocessingSpec) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), as torchvision's ToTensor and Normalize."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (spec.mean, spec.std))
    return (scaled - mean) / std


def report(confusion: Tensor, labels: tuple[str, ...]) -> None:
    width = max(len(label) for label in labels) + 2
    print("\nConfusion matrix (rows: true, columns: predicted)")
    print(" " * width + "".join(f"{label[:8]:>9}" for label in labels))
    for label, row in zip(labels, confusion.tolist(), strict=True):
        print(f"{label:<{width}}" + "".join(f"{count:>9}" for count in row))
    print(f"Accuracy on held-out pictures: {confusion.diagonal().sum() / confusion.sum():.2%} of {confusion.sum()}\n")


def export(model: nn.Module, architecture: str, name: str, held_out: Split, spec: PreprocessingSpec) -> Path:
    root = ROOT / "models" / name
    versions = [int(entry.name) for entry in root.glob("*") if entry.name.isdecimal()]
    version = max(versions, default=0) + 1
    # No version to find_version, so that a replica that starts meanwhile serves the one before.
    unfinished = root / f".tmp-{version}"
    shutil.rmtree(unfinished, ignore_errors=True)  # Of an export that was interrupted.
    unfinished.mkdir(parents=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    weights = unfinished / "model.safetensors"
    save_file(state, weights)
    weights.chmod(0o644)  # safetensors lets only the owner read, and the service may run as somebody else.
    held_out.pictures.write_golden(unfinished / GOLDEN)
    # The model that was trained, not the file that it was written to: whether that is the same, the service will see.
    recorded = record(unfinished, spec, reference(model, spec)) if len(held_out.pictures) else None
    write_manifest(
        unfinished,
        architecture=architecture,
        weights=weights.name,
        labels=held_out.labels,
        preprocessing=spec,
        recorded=recorded,
    )
    return unfinished.rename(root / str(version))


def write_config(name: str) -> Path:
    """configs/NAME.yaml: the local config with the model's name in place of the bundled one's, and its own heading."""
    local, config = ROOT / "configs" / "local.yaml", ROOT / "configs" / f"{name}.yaml"
    if name == "shapes":
        return local
    if not config.exists():
        _, _, body = local.read_text().partition("\n\n")
        # Quoted, since YAML takes names such as 2024 and null for something else.
        body = body.replace("name: shapes", f'name: "{name}"').replace("models/shapes", f"models/{name}")
        config.write_text(f"# {name}, from examples/finetune.py: `make serve CONFIG=configs/{name}.yaml`.\n\n{body}")
    return config


if __name__ == "__main__":
    main()
