"""Which device a model is to run on, and what to call the machine; asked of the system, not of a model library."""

import ctypes
import logging
import os
import platform
from pathlib import Path
from typing import Final

from deployments.engines.registry import Device
from deployments.errors import ConfigError
from deployments.settings import ModelSettings

logger = logging.getLogger("ray.serve")

# Instructions that decide which precision is fast on a CPU.
TELLING_FLAGS: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)
# The longest name that is asked for; those of today's GPUs are a quarter of it.
NAME_BYTES: Final = 256


def choose_device(settings: ModelSettings) -> Device:
    """Raises ConfigError if a CUDA device is asked for and there is none."""
    if settings.device == "cpu":
        return "cpu"
    if _cuda_device_name() is not None:
        return "cuda"
    if settings.device == "cuda":
        raise ConfigError(
            f"Model {settings.name!r} has device 'cuda', but no CUDA device is visible to its replica; set num_gpus in "
            f"its ray_actor_options, install the driver on the node, or set device to 'auto' or 'cpu'."
        )
    # A replica for which Ray has reserved a GPU should have one.
    is_reserved = os.environ.get("CUDA_VISIBLE_DEVICES") not in (None, "", "-1")
    level = logging.WARNING if is_reserved else logging.INFO
    logger.log(level, "Model %s runs on the CPU: no CUDA device is visible to its replica.", settings.name)
    return "cpu"


def describe_hardware(device: Device) -> str:
    if device == "cuda":
        return _cuda_device_name() or "no CUDA device"
    model, flags = _cpu()
    return f"{model}, {os.cpu_count()} cores, {' '.join(flag for flag in TELLING_FLAGS if flag in flags)}"


def _cuda_device_name() -> str | None:
    """The first visible CUDA device's, or None. By the CUDA driver API, in which 0 is success."""
    # Ray sets this for replicas that reserve a GPU; nothing in it means that none is to be seen.
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # There is no driver.
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
    # Fails if the driver sees no device at all, or if the first one does not exist.
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    driver.cuDeviceGetName(name, NAME_BYTES, device)
    return name.value.decode()


def _cpu() -> tuple[str, frozenset[str]]:
    """The model name and the flags that Linux reports (proc(5)); elsewhere only what Python knows."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    # ARM has no model name there, and calls its flags Features.
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", platform.machine()), frozenset(flags.split())
