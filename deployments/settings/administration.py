"""What clients may change of the models by request: nothing, unless the operator says so."""

from deployments.errors import ConfigError
from deployments.settings.frozen import Frozen
from deployments.settings.keys import is_loopback
from deployments.settings.requests import Access


class Administration(Frozen):
    """Requests that load and unload models: Triton's model repository API and TensorFlow Serving's reload."""

    # Then an API key with the scope admin may do so, and without any keys whoever is on this machine.
    enabled: bool = False


def check_administration(administration: Administration, access: Access, host: str | None) -> None:
    """Raises ConfigError if anybody but this machine could change models without a key. `host`: that of HTTP."""
    if not administration.enabled or access.asks_for_keys:
        return
    # gRPC listens on every address, and then lets in whoever comes.
    if access.open_to_all or not is_loopback(host):
        raise ConfigError(
            f"administration.enabled lets requests load and unload models, and whoever reaches http_options.host "
            f"{host!r} could send them; name API keys in args with access.keys_file or access.keys_env, of which one "
            f"has the scope admin."
        )
