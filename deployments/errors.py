"""Everything that can go wrong, as places on the data path.

    client --request--> Ingress --bytes--> Preprocessor --pixels--> Classifier --scores--> client
             |             |                   |                       |
             |             |                   |                       InferenceFailed        500
             |             |                   ImageRefused                                   422
             |             |                     CorruptImage, TooManyPixels, AnimatedImage, UnsupportedPixels,
             |             |                     DecodeTimedOut
             |             |                   UnsupportedFormat                              415
             |             UnknownModel                                                       404
             |             DeadlineExceeded                                                   408
             |             Overloaded, ModelNotReady, VersionAbsent                           503
             QuotaExceeded: this caller's own                                   429
             Unauthenticated, Forbidden: an API key, or its scope, is lacking   401, 403
             AdministrationOff, HeatMapsOff                                                   404
             NotExplainable: the version is not a network that heat maps can be made of       409
             BadRequest                                                                       400
               UrlRefused
             LoadFailed: of an administrator's request                                        400
             FetchFailed: what an image URL names has not come                                424
             (no such route 404, method 405: the router; no such RPC 501: protocols/rpc.py)
             BodyTooLarge, TooManyImages                                                      413

`ConfigError` is the one that no client sees: it stops the start.

The message of every error below is written for the client. The text of any other exception is not: it goes to the log,
and the client gets `InferenceFailed` or a bare 500 with the request id. Errors travel between processes, so each is
built from its message alone and survives pickling.
"""

from typing import ClassVar


class ApertureError(Exception):
    """Base of all errors that a client may see."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(ApertureError):
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    code = "bad_request"


class UrlRefused(BadRequest):
    code = "url_refused"


class FetchFailed(ApertureError):
    # Failed Dependency (RFC 4918) and not 502, which proxies count as a failure of this service and try again.
    http_status = 424
    grpc_status = "FAILED_PRECONDITION"
    code = "fetch_failed"


class Unauthenticated(ApertureError):
    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    code = "unauthenticated"


class Forbidden(ApertureError):
    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    code = "forbidden"


class AdministrationOff(ApertureError):
    # As routes and RPCs that are not there, and in words of its own.
    http_status = 404
    grpc_status = "UNIMPLEMENTED"
    code = "administration_off"


class HeatMapsOff(ApertureError):
    # As AdministrationOff.
    http_status = 404
    grpc_status = "UNIMPLEMENTED"
    code = "heat_maps_off"


class NotExplainable(ApertureError):
    # And not 501, which proxies count as a failure of this service: another version may well be explained.
    http_status = 409
    grpc_status = "FAILED_PRECONDITION"
    code = "not_explainable"


class LoadFailed(ApertureError):
    """An administrator's request for versions that cannot be served; those before them still are."""

    http_status = 400
    grpc_status = "FAILED_PRECONDITION"
    code = "load_failed"


class UnknownModel(ApertureError):
    http_status = 404
    grpc_status = "NOT_FOUND"
    code = "unknown_model"


class DeadlineExceeded(ApertureError):
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    code = "deadline_exceeded"


class BodyTooLarge(ApertureError):
    http_status = 413
    grpc_status = "INVALID_ARGUMENT"
    code = "body_too_large"


class TooManyImages(BodyTooLarge):
    code = "too_many_images"


class UnsupportedFormat(ApertureError):
    http_status = 415
    grpc_status = "INVALID_ARGUMENT"
    code = "unsupported_format"


class ImageRefused(ApertureError):
    http_status = 422
    grpc_status = "INVALID_ARGUMENT"
    code = "image_refused"


class CorruptImage(ImageRefused):
    code = "corrupt_image"


class TooManyPixels(ImageRefused):
    code = "too_many_pixels"


class AnimatedImage(ImageRefused):
    code = "animated_image"


class UnsupportedPixels(ImageRefused):
    code = "unsupported_pixels"


class DecodeTimedOut(ImageRefused):
    code = "decode_timed_out"


class Overloaded(ApertureError):
    """`retry_after_s`: when the same request is expected to be taken; None where nobody knows."""

    http_status = 503
    grpc_status = "RESOURCE_EXHAUSTED"
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s  # In __dict__, which survives pickling.


class QuotaExceeded(Overloaded):
    http_status = 429
    code = "quota_exceeded"


class ModelNotReady(Overloaded):
    grpc_status = "UNAVAILABLE"
    code = "model_not_ready"


class VersionAbsent(ModelNotReady):
    """A replica was asked for a version that it does not have; another one may have it."""


class InferenceFailed(ApertureError):
    code = "inference_failed"


class ConfigError(Exception):
    """A setting or a model on disk that cannot be served. The message is one sentence for the operator.

    Not a ValueError on purpose: pydantic would wrap one into its own multi-line report.
    """
