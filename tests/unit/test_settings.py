"""What an operator may set: the defaults, and the one sentence that each mistake is answered with."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.settings import (
    Frozen,
    Limits,
    LiveSettings,
    ModelSettings,
    PreprocessingSpec,
    Settings,
    Tolerance,
    check_batch_can_fill,
    check_messages_fit,
    live_batch_size,
    with_fidelity,
    with_threads,
)
from tests.unit.sentences import sentence_of

SHAPES = {"name": "shapes", "path": "models/shapes"}
RESNET = {"name": "resnet", "architecture": "resnet18", "weights": "IMAGENET1K_V1"}


def test_the_shortest_settings_are_one_model() -> None:
    settings = Settings.model_validate({"models": [SHAPES]})
    assert settings.limits == Limits()
    assert settings.preprocessor_threads == 1


def test_a_model_defaults_to_the_fastest_engine_at_fp32_on_whatever_is_there() -> None:
    model = ModelSettings.model_validate(SHAPES)
    assert (model.engine, model.precision, model.device) == ("auto", "fp32", "auto")
    assert (model.max_batch_size, model.threads, model.fidelity) == (8, None, None)


def test_the_tolerance_defaults_to_one_image_in_200_and_two_percent() -> None:
    model = ModelSettings.model_validate(SHAPES)
    assert (model.tolerance.top1_agreement, model.tolerance.max_probability_difference) == (0.995, 0.02)
    assert (model.on_refusal, model.golden, model.calibration) == ("next", None, None)


def test_limits_default_to_what_one_photo_needs() -> None:
    limits = Limits()
    assert (limits.max_body_bytes, limits.max_pixels, limits.max_images) == (10_485_760, 50_000_000, 64)
    assert (limits.animated, limits.alpha_background) == ("first_frame", (255, 255, 255))
    assert limits.request_timeout_s == 30.0


def test_preprocessing_defaults_to_torchvisions_evaluation_transform() -> None:
    spec = PreprocessingSpec()
    assert (spec.resize_size, spec.crop_size, spec.interpolation) == (256, 224, "bilinear")
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (Settings.model_validate({"models": [SHAPES]}), "preprocessor_threads"),
        (Limits(), "max_pixels"),
        (ModelSettings.model_validate(SHAPES), "max_batch_size"),
        (PreprocessingSpec(), "crop_size"),
        (Tolerance(), "top1_agreement"),
        (LiveSettings(), "max_batch_size"),
    ],
    ids=["settings", "limits", "model", "preprocessing", "tolerance", "live settings"],
)
def test_settings_cannot_be_changed(settings: Frozen, key: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, key, 1)


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt top key": (
        {"models": [SHAPES], "limit": {}},
        [
            "Settings has no key 'limit'",
            "{}",
            "it knows models, limits, admission, access, administration, pages, telemetry, gathering",
        ],
    ),
    "misspelt key of a model": (
        {"models": [{**SHAPES, "max_batch": 4}]},
        ["ModelSettings has no key 'max_batch'", "4", "max_batch_size", "threads"],
    ),
    "an input named twice": (
        {"models": [{**SHAPES, "inputs": ["IMAGE", "INPUT", "IMAGE"]}]},
        ["inputs", "'shapes'", "twice"],
    ),
    "an output named twice": (
        {"models": [{**SHAPES, "outputs": ["LOGITS", "LOGITS"]}]},
        ["outputs", "'shapes'", "twice"],
    ),
    "no inputs": ({"models": [{**SHAPES, "inputs": []}]}, ["inputs", "[]", "at least 1"]),
    "an unknown output": ({"models": [{**SHAPES, "outputs": ["LABELS"]}]}, ["outputs.0", "'LABELS'", "'LOGITS'"]),
    "an address among the hosts of URLs": (
        {"models": [SHAPES], "image_urls": {"allowed_hosts": ["10.0.0.1"]}},
        ["allowed_hosts.0", "'10.0.0.1'"],
    ),
    "misspelt limit": (
        {"models": [SHAPES], "limits": {"max_body_byte": 5}},
        ["Limits has no key 'max_body_byte'", "5", "max_body_bytes"],
    ),
    "negative size": (
        {"models": [SHAPES], "limits": {"max_body_bytes": -1}},
        ["'max_body_bytes' of Limits", "-1", "greater than 0"],
    ),
    "size of zero": (
        {"models": [{**RESNET, "preprocessing": {"crop_size": 0}}]},
        ["'crop_size' of PreprocessingSpec", "0", "greater than 0"],
    ),
    "part of a batch": (
        {"models": [{**SHAPES, "max_batch_size": 2.5}]},
        ["'max_batch_size' of ModelSettings", "2.5", "valid integer"],
    ),
    "batch too large": (
        {"models": [{**SHAPES, "max_batch_size": 1025}]},
        ["'max_batch_size' of ModelSettings", "1025", "less than or equal to 1024"],
    ),
    "timeout that is not finite": (
        {"models": [SHAPES], "limits": {"request_timeout_s": float("inf")}},
        ["'request_timeout_s' of Limits", "inf", "finite number"],
    ),
    "colour beyond a byte": (
        {"models": [SHAPES], "limits": {"alpha_background": [0, 0, 256]}},
        ["'alpha_background.2' of Limits", "256", "less than or equal to 255"],
    ),
    "division by zero": (
        {"models": [{**RESNET, "preprocessing": {"std": [0.2, 0, 0.2]}}]},
        ["'std.1' of PreprocessingSpec", "0", "greater than 0"],
    ),
    "mean that is not a number": (
        {"models": [{**RESNET, "preprocessing": {"mean": [float("nan"), 0, 0]}}]},
        ["'mean.0' of PreprocessingSpec", "nan", "finite number"],
    ),
    "two means": (
        {"models": [{**RESNET, "preprocessing": {"mean": [0.5, 0.5]}}]},
        ["PreprocessingSpec needs the key 'mean.2'", "missing"],
    ),
    "unknown kernel": (
        {"models": [{**RESNET, "preprocessing": {"interpolation": "cubic"}}]},
        ["'interpolation' of PreprocessingSpec", "'cubic'", "'bilinear', 'bicubic', 'lanczos', 'box' or 'nearest'"],
    ),
    "unknown device": (
        {"models": [{**SHAPES, "device": "gpu"}]},
        ["'device' of ModelSettings", "'gpu'", "'auto', 'cpu' or 'cuda'"],
    ),
    "unknown engine": (
        {"models": [{**SHAPES, "engine": "caffe"}]},
        [
            "'engine' of ModelSettings",
            "'caffe'",
            "'auto', 'torch', 'torch-compile', 'onnxruntime', 'openvino', 'tensorrt' or 'dummy'",
        ],
    ),
    "unknown precision": (
        {"models": [{**SHAPES, "precision": "fp8"}]},
        ["'precision' of ModelSettings", "'fp8'", "'auto', 'fp32', 'bf16', 'fp16' or 'int8'"],
    ),
    "agreement in percent": (
        {"models": [{**SHAPES, "tolerance": {"top1_agreement": 99.5}}]},
        ["'top1_agreement' of Tolerance", "99.5", "less than or equal to 1"],
    ),
    "misspelt tolerance": (
        {"models": [{**SHAPES, "tolerance": {"top_1_agreement": 1}}]},
        ["Tolerance has no key 'top_1_agreement'", "it knows top1_agreement, max_probability_difference"],
    ),
    "unknown way out of a refusal": (
        {"models": [{**SHAPES, "on_refusal": "warn"}]},
        ["'on_refusal' of ModelSettings", "'warn'", "'next' or 'fail'"],
    ),
    "unknown fidelity": (
        {"models": [{**SHAPES, "fidelity": "best"}]},
        ["'fidelity' of ModelSettings", "'best'", "'exact' or 'fast'"],
    ),
    "no threads": (
        {"models": [{**SHAPES, "threads": 0}]},
        ["'threads' of ModelSettings", "0", "greater than or equal to 1"],
    ),
    "no models": ({"models": []}, ["'models' of Settings", "[]", "at least 1"]),
    "models missing": ({}, ["Settings needs the key 'models'", "missing"]),
    "models that are no list": ({"models": SHAPES}, ["'models' of Settings", "'models/shapes'", "valid tuple"]),
    "duplicate names": ({"models": [SHAPES, RESNET, SHAPES]}, ["two entries named 'shapes'", "its own name"]),
    "name of the Ingress": (
        {"models": [{**SHAPES, "name": "Ingress"}]},
        ["models.name is 'Ingress'", "another deployment"],
    ),
    "name of the Preprocessor": (
        {"models": [{**SHAPES, "name": "Preprocessor"}]},
        ["models.name is 'Preprocessor'", "another deployment"],
    ),
    "name with a separator": (
        {"models": [{**SHAPES, "name": "a/b"}]},
        ["'name' of ModelSettings", "'a/b'", "pattern '^[A-Za-z0-9]"],
    ),
    "name with a line end": (
        {"models": [{**SHAPES, "name": "shapes\n"}]},
        ["'name' of ModelSettings", r"'shapes\n'", "pattern"],
    ),
    "name too long": ({"models": [{**SHAPES, "name": "x" * 64}]}, ["'name' of ModelSettings", "xxx", "{0,62}"]),
    "missing name": ({"models": [{"path": "models/shapes"}]}, ["ModelSettings needs the key 'name'", "missing"]),
    "path together with weights": (
        {"models": [{**SHAPES, "weights": "model.pth"}]},
        ["'shapes' has a path", "model.yaml", "weights"],
    ),
    "path together with labels": (
        {"models": [{**SHAPES, "labels": "labels.txt"}]},
        ["'shapes' has a path", "model.yaml", "labels"],
    ),
    "path together with preprocessing": (
        {"models": [{**SHAPES, "preprocessing": {}}]},
        ["'shapes' has a path", "model.yaml", "preprocessing"],
    ),
    "path together with an architecture": (
        {"models": [{**SHAPES, "architecture": "resnet18"}]},
        ["'shapes'", "either path or architecture", "not both"],
    ),
    "neither path nor architecture": (
        {"models": [{"name": "shapes"}]},
        ["'shapes'", "either path or architecture", "not both"],
    ),
    "architecture without weights": (
        {"models": [{"name": "resnet", "architecture": "resnet18"}]},
        ["'resnet'", "an architecture but no weights"],
    ),
    "value over several lines": (
        {"models": [{**SHAPES, "threads": "one\nor two"}]},
        ["'threads' of ModelSettings", r"'one\nor two'", "valid integer"],
    ),
}


@pytest.mark.parametrize(("settings", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_with_key_value_and_what_is_allowed(
    settings: dict[str, Any], words: list[str]
) -> None:
    sentence = sentence_of(lambda: Settings.model_validate(settings))
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize("value", [None, [SHAPES], "shapes", 3], ids=["nothing", "a list", "text", "a number"])
def test_settings_that_are_no_mapping_are_one_sentence(value: object) -> None:
    sentence = sentence_of(lambda: Settings.model_validate(value))
    assert f"Settings has the value {value!r}" in sentence
    assert "dictionary" in sentence


def test_a_mistake_keeps_its_sentence_when_only_the_model_is_validated() -> None:
    assert "'gpu'" in sentence_of(lambda: ModelSettings.model_validate({**SHAPES, "device": "gpu"}))


def test_a_dummy_needs_no_weights() -> None:
    model = ModelSettings(name="dummy", engine="dummy")
    assert (model.path, model.architecture) == (None, None)


def test_live_settings_name_a_misspelt_key() -> None:
    sentence = sentence_of(lambda: LiveSettings.model_validate({"max_batch_szie": 4}))
    assert sentence.startswith(
        "LiveSettings has no key 'max_batch_szie' (its value here is 4); it knows max_batch_size"
    )


def test_live_settings_refuse_a_batch_of_nothing() -> None:
    sentence = sentence_of(lambda: LiveSettings.model_validate({"max_batch_size": 0}))
    assert "'max_batch_size' of LiveSettings has the value 0" in sentence
    assert "greater than 0" in sentence


def test_without_a_live_batch_size_the_models_own_holds() -> None:
    assert live_batch_size(ModelSettings.model_validate(SHAPES), LiveSettings()) == 8


def test_a_live_batch_size_may_be_smaller_than_the_models() -> None:
    assert live_batch_size(ModelSettings.model_validate(SHAPES), LiveSettings(max_batch_size=3)) == 3


def test_a_live_batch_size_beyond_the_warm_ones_is_refused() -> None:
    model = ModelSettings.model_validate(SHAPES)
    sentence = sentence_of(lambda: live_batch_size(model, LiveSettings(max_batch_size=9)))
    assert "user_config.max_batch_size of 'shapes' is 9" in sentence
    assert "at most 8" in sentence


def test_a_batch_that_can_never_fill_is_refused_with_the_least_that_would_do() -> None:
    model = ModelSettings.model_validate(SHAPES)
    sentence = sentence_of(lambda: check_batch_can_fill(model, 15))
    for words in ("'shapes'", "max_ongoing_requests 15", "max_batch_size 8", "at least 16"):
        assert words in sentence


def test_room_for_two_batches_is_enough() -> None:
    check_batch_can_fill(ModelSettings.model_validate(SHAPES), 16)


def test_the_digest_of_the_default_spec_never_changes() -> None:
    # Clients compare digests across releases: a change here says that the pixels changed.
    assert PreprocessingSpec().digest == "1eae326a650c92c4"


CHANGES: dict[str, Any] = {
    "resize_size": 257,
    "crop_size": 225,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.407),
    "std": (0.229, 0.224, 0.226),
    "fidelity": "fast",
}


@pytest.mark.parametrize("field", PreprocessingSpec.model_fields)
def test_the_digest_changes_with_any_field(field: str) -> None:
    changed = PreprocessingSpec.model_validate({field: CHANGES[field]})
    assert changed.digest != PreprocessingSpec().digest


def test_the_digest_is_that_of_the_values_however_they_were_written() -> None:
    written_in_yaml = PreprocessingSpec.model_validate({"std": [0.229, 0.224, 0.225], "crop_size": "224"})
    assert written_in_yaml.digest == PreprocessingSpec().digest


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"limits": {"max_body_bytes": 4 * 2**20}}, "limits.max_body_bytes"),
        ({"limits": {"max_body_bytes": 2**20, "max_array_bytes": 4 * 2**20}}, "limits.max_array_bytes"),
        (
            {"limits": {"max_body_bytes": 2**20, "max_array_bytes": 2**20}, "gathering": {"max_bytes": 4 * 2**20}},
            "gathering.max_bytes",
        ),
    ],
)
def test_what_may_be_sent_must_fit_into_a_message_between_deployments(settings: dict[str, Any], key: str) -> None:
    validated = Settings.model_validate({"models": [SHAPES], "gathering": None, **settings})
    sentence = sentence_of(lambda: check_messages_fit(validated, 4 * 2**20))
    assert sentence.startswith(f"{key} is 4194304, but deployments exchange messages of at most 4194304 bytes")
    check_messages_fit(validated, 64 * 2**20)


@pytest.mark.parametrize(("num_cpus", "threads"), [(0.5, 1), (1, 1), (2.5, 2)])
def test_threads_are_the_whole_cores_that_a_replica_reserves(num_cpus: float, threads: int) -> None:
    assert with_threads(ModelSettings.model_validate(SHAPES), num_cpus).threads == threads


def test_stated_threads_are_kept() -> None:
    assert with_threads(ModelSettings.model_validate({**SHAPES, "threads": 3}), 1).threads == 3


@pytest.mark.parametrize(
    ("of_spec", "of_model", "served"),
    [("exact", None, "exact"), ("fast", None, "fast"), ("exact", "fast", "fast"), ("fast", "exact", "exact")],
)
def test_a_models_fidelity_is_that_of_its_spec_unless_it_has_its_own(
    of_spec: str, of_model: str | None, served: str
) -> None:
    spec = PreprocessingSpec.model_validate({"fidelity": of_spec})
    assert with_fidelity(spec, ModelSettings.model_validate({**SHAPES, "fidelity": of_model})).fidelity == served
