"""What changes the models by request: Triton's model repository API, and TensorFlow Serving's reload.

    POST /v2/repository/models/MODEL/load      RepositoryModelLoad      looks again at the model's directory
    POST /v2/repository/models/MODEL/unload    RepositoryModelUnload    gives up all versions until it is loaded
                                               HandleReloadConfigRequest    other versions and labels

Specified in docs/protocol/extension_model_repository.md of triton-inference-server/server, and in
tensorflow_serving/apis/model_service.proto. All need an API key with the scope admin (authentication.py): they are in
neither of its tables.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.access import AccessControl
from deployments.errors import BadRequest, Forbidden
from deployments.messages import Administrator
from deployments.protocols.authentication import caller
from deployments.protocols.encoding import read_body
from deployments.protocols.generated import inference_pb2 as oip
from deployments.protocols.generated import tensorflow_error_pb2
from deployments.protocols.generated import tensorflow_serving_pb2 as tfs
from deployments.protocols.json_bodies import parse_object, quoted
from deployments.protocols.patience import Patience
from deployments.protocols.rpc import Rpcs, timed_rpc
from deployments.protocols.tfserving.reload import configs_of
from deployments.settings import Limits

Action = Callable[[str, str, float], Awaitable[None]]

# Of an unload. There are no ensembles here, so that no model depends on another.
IGNORED: Final = frozenset({"unload_dependents"})


def routes(admin: Administrator, access: AccessControl, limits: Limits) -> list[Route]:
    def route(name: str, action: Action, ignored: frozenset[str] = frozenset()) -> Route:
        async def answer(request: Request) -> Response:
            _check_sender(request, access)
            body = await read_body(request, limits.max_body_bytes)
            _check_parameters(name, _parameters_in(body), ignored)
            await action(request.path_params["model"], caller.get(), request.state.patience.left_s())
            # As Triton has it.
            return Response()

        return Route(f"/v2/repository/models/{{model}}/{name}", answer, methods=["POST"])

    return [route("load", admin.load), route("unload", admin.unload, IGNORED)]


class AdminRpcs(Rpcs):
    """Of inference.GRPCInferenceService and tensorflow.serving.ModelService."""

    admin: Administrator

    @timed_rpc(oip.RepositoryModelLoadResponse)
    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, patience: Patience
    ) -> oip.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        _check_parameters("load", request.parameters)
        await self.admin.load(request.model_name, caller.get(), patience.left_s())
        return oip.RepositoryModelLoadResponse()

    @timed_rpc(oip.RepositoryModelUnloadResponse)
    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, patience: Patience
    ) -> oip.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        _check_parameters("unload", request.parameters, IGNORED)
        await self.admin.unload(request.model_name, caller.get(), patience.left_s())
        return oip.RepositoryModelUnloadResponse()

    @timed_rpc(tfs.ReloadConfigResponse)
    async def HandleReloadConfigRequest(
        self, request: tfs.ReloadConfigRequest, patience: Patience
    ) -> tfs.ReloadConfigResponse:
        await self.admin.reload(configs_of(request), caller.get(), patience.left_s())
        return tfs.ReloadConfigResponse(status=tfs.StatusProto(error_code=tensorflow_error_pb2.OK))


def _check_sender(request: Request, access: AccessControl) -> None:
    """Where no key is asked for, a page in a browser of this machine must not be able to do this. Raises Forbidden."""
    # Browsers send Origin with every POST of a page (Fetch, "append a request `Origin` header"); other clients do not.
    if "origin" in request.headers and not access.asks_for_keys:
        raise Forbidden("Web pages may change models only with an API key, and this service has none.")


def _parameters_in(body: bytes) -> dict[str, Any]:
    wish = parse_object(body, "parameters") if body else {}
    parameters = wish.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"The parameters must be an object, not {quoted(parameters)}.")
    return parameters


def _check_parameters(action: str, parameters: Iterable[str], ignored: frozenset[str] = frozenset()) -> None:
    """Raises BadRequest for one that would change what is loaded: that is as the model's directory has it."""
    for name in parameters:
        if name not in ignored:
            known = ", ".join(ignored) or "none"
            raise BadRequest(f"A model's {action} takes no parameter {quoted(name)}; those that it takes: {known}.")


def _check_repository(name: str) -> None:
    if name:
        raise BadRequest(f"There is one repository, which has no name; the request names {quoted(name)}.")
