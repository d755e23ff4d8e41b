"""The Preprocessor deployment: encoded images in, the model's pixels out, on CPU cores."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from deployments.errors import ApertureError, CorruptImage
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec

logger = logging.getLogger("ray.serve")

# A GIF of one white pixel. Pillow imports its format plugins when it meets the first image.
WARM_UP_IMAGE = bytes.fromhex("47494638376101000100800000ffffffffffff2c00000000010001000002024401003b")


class Preprocessor:
    def __init__(self, limits: Limits, threads: int) -> None:
        self._limits = limits
        # Pillow decodes and resizes without the GIL, so threads use cores and the event loop stays free.
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        preprocess(WARM_UP_IMAGE, PreprocessingSpec(), limits)

    async def preprocess(
        self, images: Sequence[bytes | Pixels], spec: PreprocessingSpec
    ) -> Sequence[Pixels | ApertureError]:
        """For each image uint8 (crop_size, crop_size, 3), or the reason for refusing it.

        A refusal is returned, not raised: it is an answer, and Serve would count and log it as a replica's failure.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._decoders, self._preprocess, image, spec) for image in images)
        )

    def _preprocess(self, image: bytes | Pixels, spec: PreprocessingSpec) -> Pixels | ApertureError:
        try:
            return preprocess(image, spec, self._limits)
        except ApertureError as refusal:
            if refusal.__cause__ is not None:
                logger.info("Refused an image: %s (%r)", refusal, refusal.__cause__)
            return refusal
        except MemoryError:
            logger.exception("Out of memory while decoding an image within the limits")
            return CorruptImage("The image needs more memory to decode than this service has.")
