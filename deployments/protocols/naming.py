"""By which protocol a request comes, for the metrics and the log: of a handful, whatever a client sends."""

from typing import Final

from deployments.metrics import Protocol

BY_PATH: Final[dict[str, Protocol]] = {"/predict": "predict", "/": "huggingface", "/explain": "explain"}
TFSERVING_ACTIONS: Final = (":predict", ":classify", ":regress")
BY_RPC: Final[dict[str, Protocol]] = {
    **dict.fromkeys(("ModelInfer", "ModelStreamInfer"), "oip_grpc"),
    **dict.fromkeys(("Predict", "Classify", "Regress", "MultiInference"), "tfserving_grpc"),
}


def protocol_of_http(method: str, path: str) -> Protocol:
    """`path`: as a route is declared, or of a request, without the prefix of the application."""
    if method != "POST":
        return "other"
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "oip"
    if path.startswith("/v1/models/") and path.lower().endswith(TFSERVING_ACTIONS):
        return "tfserving"
    return BY_PATH.get(path, "other")


def protocol_of_rpc(name: str) -> Protocol:
    return BY_RPC.get(name, "other")
