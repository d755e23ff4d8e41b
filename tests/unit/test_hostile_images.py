"""Hostile files end in a picture or in the right error, in bounded memory, and cost the next image nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile_files import JPEG, PICTURE, SMALL
from deployments.decode_cost import is_short
from deployments.decoder_process import DecoderProcess
from deployments.errors import ApertureError, DecodeTimedOut
from deployments.imaging import preprocess
from deployments.messages import Pixels
from deployments.settings import Limits, PreprocessingSpec
from tests.unit.hostile import SLOW

# As in the service.
pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = PreprocessingSpec(resize_size=64, crop_size=56)
CPU_S, WALL_S = 5.0, 60.0
# Of address space and of memory; the bodies have up to 10 MB, and the largest picture among them 10 million pixels.
MOST_MB = 200


@pytest.fixture(scope="module", params=["first_frame", "refuse"])
def limits(request: pytest.FixtureRequest) -> Limits:
    return Limits(animated=request.param)


@pytest.fixture(scope="module")
def decoder(limits: Limits) -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(limits)
    yield decoder
    decoder.close()


def outcome_here(data: bytes, spec: PreprocessingSpec, limits: Limits) -> Pixels | ApertureError:
    try:
        return preprocess(data, spec, limits)
    except ApertureError as refusal:
        return refusal


def peak_mb(decoder: DecoderProcess) -> int:
    (peak,) = (line for line in Path(f"/proc/{decoder.pid}/status").read_text().splitlines() if "VmHWM" in line)
    return int(peak.split()[1]) // 1024


@pytest.mark.parametrize("what", SMALL)
def test_a_hostile_file_ends_in_a_picture_or_in_the_right_error(
    what: str, decoder: DecoderProcess, limits: Limits
) -> None:
    hostile = SMALL[what]
    outcome = decoder.preprocess(hostile.data, SPEC, CPU_S, WALL_S)
    assert not decoder.has_ended
    assert getattr(outcome, "code", PICTURE) in hostile.ends
    # What is decoded elsewhere is decoded as it would be here.
    expected = outcome_here(hostile.data, SPEC, limits)
    if isinstance(expected, ApertureError):
        assert (type(outcome), str(outcome)) == (type(expected), str(expected))
    else:
        np.testing.assert_array_equal(outcome, expected)
    assert peak_mb(decoder) < MOST_MB


@pytest.mark.parametrize("what", SLOW)
def test_a_file_that_keeps_the_decoder_busy_is_stopped_and_the_next_one_is_decoded(what: str) -> None:
    assert not is_short(SLOW[what], SPEC)
    decoder = DecoderProcess(Limits())
    outcome = decoder.preprocess(SLOW[what], SPEC, cpu_s=0.2, wall_s=WALL_S)
    assert isinstance(outcome, DecodeTimedOut)
    assert decoder.has_ended
    decoder.close()


def test_a_photograph_has_its_usual_pixels_after_all_of_that(decoder: DecoderProcess, limits: Limits) -> None:
    outcome = decoder.preprocess(JPEG, SPEC, CPU_S, WALL_S)
    np.testing.assert_array_equal(outcome, preprocess(JPEG, SPEC, limits))
