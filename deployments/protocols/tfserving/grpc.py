"""tensorflow.serving.PredictionService and ModelService: TensorFlow Serving's API over gRPC.

Specified in github.com/tensorflow/serving, tensorflow_serving/apis/*.proto. A model has the signature serving_default.
"""

from collections.abc import Sequence
from typing import cast

from google.protobuf.json_format import ParseDict

from deployments.errors import BadRequest
from deployments.messages import Answer, DataPlane, ImageInput, ModelInfo
from deployments.protocols.addressing import chosen, described
from deployments.protocols.generated import tensorflow_pb2 as tf
from deployments.protocols.generated import tensorflow_serving_pb2 as pb
from deployments.protocols.json_bodies import quoted
from deployments.protocols.oip.inference import check_names
from deployments.protocols.patience import Patience
from deployments.protocols.rpc import Rpcs, rpc, timed_rpc, unserved
from deployments.protocols.tensors import answers_of, best, images_from, output_values
from deployments.protocols.tfserving.signature import SIGNATURE, check_signature, signature_def_map
from deployments.protocols.tfserving.status import model_status
from deployments.protocols.tfserving.tensor_proto import input_from, proto_of
from deployments.settings import OutputName

# The customary feature of tf.Example for an encoded image; without it, the only one of bytes is taken.
IMAGE_FEATURE = "image/encoded"
# More than an example of an image has.
MAX_FEATURES = 64
METADATA_FIELD = "signature_def"


class PredictionRpcs(Rpcs):
    """tensorflow.serving.PredictionService."""

    @timed_rpc(pb.PredictResponse)
    async def Predict(self, request: pb.PredictRequest, patience: Patience) -> pb.PredictResponse:
        """PROBABILITIES and LOGITS as DT_FLOAT (N, classes), or what `output_filter` names of them."""
        info = chosen(self.plane, *_asked(request.model_spec))
        check_signature(request.model_spec.signature_name)
        outputs = _filtered(request.output_filter, info)
        if len(request.inputs) != 1:
            raise BadRequest(f"The model {info.name!r} takes exactly one input; the request has {len(request.inputs)}.")
        ((key, tensor),) = request.inputs.items()
        name, values = input_from(key, tensor, info, self.plane)
        answers = answers_of(await self.plane.classify(images_from(name, values, info), info, patience.left_s()))
        return pb.PredictResponse(
            model_spec=_spec(info), outputs={output: proto_of(output_values(output, answers)) for output in outputs}
        )

    @timed_rpc(pb.ClassificationResponse)
    async def Classify(self, request: pb.ClassificationRequest, patience: Patience) -> pb.ClassificationResponse:
        """All classes of each example with their probabilities, the most probable first."""
        info = chosen(self.plane, *_asked(request.model_spec))
        check_signature(request.model_spec.signature_name)
        check_names(["IMAGE"], info)
        images = _images(request.input, self.plane)
        answers = answers_of(await self.plane.classify(images, info, patience.left_s()))
        result = pb.ClassificationResult(classifications=[_classes(answer) for answer in answers])
        return pb.ClassificationResponse(model_spec=_spec(info), result=result)

    @rpc(pb.GetModelMetadataResponse)
    async def GetModelMetadata(self, request: pb.GetModelMetadataRequest) -> pb.GetModelMetadataResponse:
        info = described(self.plane, *_asked(request.model_spec))
        if not request.metadata_field or any(field != METADATA_FIELD for field in request.metadata_field):
            unknown = next((field for field in request.metadata_field if field != METADATA_FIELD), None)
            raise BadRequest(f"metadata_field must be {METADATA_FIELD!r}, not {quoted(unknown)}.")
        response = pb.GetModelMetadataResponse(model_spec=_spec(info))
        response.metadata[METADATA_FIELD].Pack(ParseDict(signature_def_map(info), pb.SignatureDefMap()))
        return response

    Regress = unserved("Regress", pb.RegressionResponse)
    MultiInference = unserved("MultiInference", pb.MultiInferenceResponse)


class ModelRpcs(Rpcs):
    """tensorflow.serving.ModelService."""

    @rpc(pb.GetModelStatusResponse)
    async def GetModelStatus(self, request: pb.GetModelStatusRequest) -> pb.GetModelStatusResponse:
        """Of all versions of the model, or of the one that is named."""
        return ParseDict(model_status(self.plane, *_asked(request.model_spec)), pb.GetModelStatusResponse())


def _asked(spec: pb.ModelSpec) -> tuple[str, str | None, str | None]:
    """The model, and the version or the label."""
    choice = spec.WhichOneof("version_choice")
    version = str(spec.version.value) if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None


def _spec(info: ModelInfo) -> pb.ModelSpec:
    return pb.ModelSpec(name=info.name, version={"value": info.version}, signature_name=SIGNATURE)


def _filtered(names: Sequence[str], info: ModelInfo) -> Sequence[OutputName]:
    if len(set(names)) < len(names):
        raise BadRequest("output_filter names an output twice.")
    for name in names:
        if name not in info.outputs:
            raise BadRequest(
                f"The model {info.name!r} has the outputs {', '.join(info.outputs)}, and no {quoted(name)}."
            )
    return cast("Sequence[OutputName]", names) or info.outputs


def _images(content: pb.Input, plane: DataPlane) -> list[ImageInput]:
    kind = content.WhichOneof("kind")
    examples = getattr(content, kind).examples if kind else []
    if not examples:
        raise BadRequest("The request has no examples.")
    plane.check_count(len(examples))
    return [_image(example, number) for number, example in enumerate(examples, 1)]


def _image(example: tf.Example, number: int) -> bytes:
    features = example.features.feature
    if IMAGE_FEATURE in features:
        keys = [IMAGE_FEATURE]
    elif len(features) <= MAX_FEATURES:
        keys = [key for key, feature in features.items() if feature.WhichOneof("kind") == "bytes_list"]
    else:
        keys = []
    if len(keys) != 1 or len(features[keys[0]].bytes_list.value) != 1:
        raise BadRequest(
            f"Example {number} must have one image as the bytes of the feature {IMAGE_FEATURE!r}, or of its only "
            f"feature of bytes."
        )
    image: bytes = features[keys[0]].bytes_list.value[0]
    return image


def _classes(answer: Answer) -> pb.Classifications:
    order = best(answer.probabilities, len(answer.info.labels))
    return pb.Classifications(
        classes=[pb.Class(label=answer.info.labels[index], score=float(answer.probabilities[index])) for index in order]
    )
