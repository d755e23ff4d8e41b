"""What every ConfigError must be: one sentence for the operator."""

from collections.abc import Callable

import pytest

from deployments.errors import ConfigError


def sentence_of(call: Callable[[], object]) -> str:
    """The message of the ConfigError that `call` raises, which must be one sentence on one line."""
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.endswith(".")
    assert ". " not in message
    return message
