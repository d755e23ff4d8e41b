"""OpenVINO, imported so that it reports to nobody: `from deployments.engines.openvino_library import ov`."""

import sys

# OpenVINO and NNCF report their use to Google Analytics when they are imported, OpenVINO from a process that it forks.
# The documented way out, `opt_in_out --opt_out`, writes into the user's home and reports that, too. None means that the
# package cannot be imported (Python reference, "The module cache"), for which both have a stub that sends nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

__all__ = ["ov"]
