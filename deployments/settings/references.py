"""How a configuration or a request names a version of a model: by its number, or by a label."""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

LABEL: Final = r"[A-Za-z][A-Za-z0-9_-]{0,62}"
# Directories are named after versions; more digits are no 64-bit integer, which gRPC has for them.
VERSION: Final = r"[0-9]{1,18}"

Version = Annotated[int, Field(ge=0, lt=10**18)]
Label = Annotated[str, Field(pattern=f"^{LABEL}$")]


def _as_text(value: Any) -> Any:
    # YAML reads a version as a number, and true and false are no versions.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# A version or a label. The two cannot be mistaken for each other.
VersionRef = Annotated[str, BeforeValidator(_as_text), Field(pattern=f"^({VERSION}|{LABEL})$")]
