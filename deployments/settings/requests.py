"""What a request may cost, ask for and be answered with, before any model is known."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from deployments.errors import ConfigError
from deployments.settings.frozen import ColourByte, Frozen, Positive, PositiveFloat

# Names beyond ASCII in their xn-- form; addresses are no names.
HostPattern = Annotated[
    str,
    Field(pattern=r"^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?$"),
]

# As browsers write them: a scheme, a host in lower case or an address, a port unless it is the scheme's own; no path.
Origin = Annotated[str, Field(pattern=r"^https?://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?$")]


class Limits(Frozen):
    """What a request may cost before it is refused."""

    # Of a request, and of what a compressed one is inflated to.
    max_body_bytes: Positive = 10 * 2**20
    # Of an image, width times height by its header.
    max_pixels: Positive = 50_000_000
    # In one request.
    max_images: Positive = 64
    # Decoded pixels, which only Python handles send. With the file's headers it must fit into one message between
    # deployments, RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH (configs/ray.env).
    max_array_bytes: Positive = 48 * 2**20
    # Of an animation or a multi-page file: classify the first frame, or answer 422.
    animated: Literal["first_frame", "refuse"] = "first_frame"
    # What shows through transparent pixels.
    alpha_background: tuple[ColourByte, ColourByte, ColourByte] = (255, 255, 255)
    # The most that a request may take, whatever it asks for.
    request_timeout_s: PositiveFloat = 30.0
    # For requests that ask for nothing; null: request_timeout_s.
    default_timeout_s: PositiveFloat | None = None
    # Of CPU time, for one image; a decoder that takes longer is stopped.
    decode_timeout_s: PositiveFloat = 5.0


class Admission(Frozen):
    """What each Ingress replica takes on at once; what comes on top is refused with 503 and when to come again.

    Below these bounds a request is refused as soon as what is ahead of it would outlast its deadline.
    """

    # That are let in and not answered yet.
    max_images: Positive = 512
    # Of bodies, and images that came otherwise, until they are answered.
    max_bytes: Positive = 256 * 2**20
    # Of images that are not decoded yet, by their headers.
    max_megapixels: Positive = 2_000


class Access(Frozen):
    """Who may call: holders of keys, or everybody. The latter is refused to start where others reach the service."""

    # What is written here by mistake may be a key.
    model_config = ConfigDict(hide_input_in_errors=True)

    # A file with the lines of `python -m scripts.api_key` (settings/keys.py); changes are followed.
    keys_file: Annotated[str, Field(pattern=r"^[^\x00]+$")] | None = None
    # The name of an environment variable with such lines; in capitals, as no key is.
    keys_env: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    # Serve everybody on every address, because something in front asks who they are.
    open_to_all: bool = False

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if [self.keys_file is not None, self.keys_env is not None, self.open_to_all].count(True) > 1:
            raise ConfigError("Of access.keys_file, access.keys_env and access.open_to_all only one may be set.")
        return self

    @property
    def asks_for_keys(self) -> bool:
        return self.keys_file is not None or self.keys_env is not None


class Pages(Frozen):
    """What browsers get."""

    # /docs and /openapi.json.
    docs: bool = True
    # / and what it shows.
    playground: bool = True
    # POST /explain: another run of the network for each image, in eager float32 on a CPU core, by a process beside each
    # replica that is asked, which takes 0.4 GB of memory on top of the weights (engines/explanation.py).
    heat_maps: bool = True
    # Pages of which other origins may call the service ("https://example.org"); none unless named.
    cors_origins: tuple[Origin, ...] = ()


class Gathering(Frozen):
    """How images that wait travel together between deployments, for each Ingress replica, model and hop."""

    # Calls in flight before images wait for one to return; at least one for each replica behind.
    max_calls: Positive = 4
    # In one call.
    max_images: Positive = 16
    # A call must fit into RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH (configs/ray.env); a single image always goes.
    max_bytes: Positive = 16 * 2**20


class ImageUrls(Frozen):
    """Which images a request may name by URL; deployments/fetching.py has what else must hold. Without it, none."""

    # Whole names of hosts, or "*.example.org" for all below one.
    allowed_hosts: Annotated[tuple[HostPattern, ...], Field(min_length=1)]
    # http as well as https.
    allow_http: bool = False
    # For one image, from the name of the host to the last byte.
    timeout_s: PositiveFloat = 5.0
