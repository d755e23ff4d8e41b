"""What all settings have in common: immutable, strict, and errors in one sentence."""

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from deployments.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ColourByte = Annotated[int, Field(ge=0, le=255)]


class Frozen(BaseModel):
    """Base of all settings: immutable, no unknown keys, errors as one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _say_in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as err:
            raise ConfigError(_sentence(cls, err.errors()[0])) from None


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    path, value, owner = ".".join(str(part) for part in error["loc"]), repr(error["input"]), model.__name__
    if model.model_config.get("hide_input_in_errors"):
        value = "***"
    if error["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"{owner} has no key {path!r} (its value here is {value}); it knows {known}."
    if error["type"] == "missing":
        return f"{owner} needs the key {path!r}, which is missing."
    allowed = re.sub(r"^(Input|Value|Tuple|String|List) should ", "it should ", error["msg"])
    subject = f"The key {path!r} of {owner}" if path else owner
    return f"{subject} has the value {value}, but {allowed}."
