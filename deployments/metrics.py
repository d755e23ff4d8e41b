"""All that Prometheus gets of the graph's own: names, labels, and who counts.

Ray puts `ray_` in front of each name and `_total` behind that of a counter: `aperture_requests` is scraped as
`ray_aperture_requests_total`. Serve adds the labels `deployment`, `replica` and `application`. Labels have values out
of the config, from disk (versions) or from the code, and none that a client chooses; a model that a client names and
nobody serves is counted with the model "". What a histogram is here, instruments.py tells.

    in the Ingress
        requests{protocol, model, outcome}                        counter    "ok", the code of an error, "client_left"
        request_duration_seconds{protocol, model, result}         histogram
        request_stage_duration_seconds{model, stage}              histogram  of requests that were answered
        received_images, received_bytes, received_pixels{protocol, model}    counters
        refusals{code}                                            counter    requests, and images of requests
        lost_calls{place}                                         counter    their replica ended
        images_in_hand{}                                          gauge      let in, and not answered yet
        promotions{model, version, step}                          counter    of candidates
        request_log_lost_lines                                    counter
        cache_hits, cache_joined, cache_misses, cache_evictions, cache_saved_seconds{model}     counters
        cache_bytes{model}                                        gauge
        version_images{model, version, outcome}                   counter
        version_latency_seconds{model, version, quantile}         gauge
        mirrored_images{model, version, outcome}                  counter    agreement: "agreed" and "disagreed"
        mirrored_difference{model, version, statistic}            gauge
    in several
        queue_duration_seconds{place, model}                      histogram  of images; {model=""} in the Preprocessor
        dropped_images{place, reason}                             counter
    in the Preprocessor
        decoders_stopped{reason}                                  counter
    in a Classifier
        batch_images{model, version}                              histogram
        batch_fill_ratio{model, version}                          histogram
        batch_duration_seconds{model, version}                    histogram
        padding_images{model, version}                            counter
        batch_bisections{model, version}                          counter
        guard_verdicts{model, engine, precision, verdict}         counter    but for those in a rehearsal's process
        version_loads{model, outcome}                             counter    "loaded", "refused"
        engine_info{model, version, engine, precision, device}    gauge      1 for each version that serves, else 0
        version_state{model, version, state}                      gauge      1 for the state that it is in, else 0

(each with `aperture_` in front). Serve itself counts replicas and their health: `ray_serve_deployment_replica_healthy`,
`ray_serve_health_check_failures_total`, `ray_serve_replica_utilization_percent`,
`ray_serve_autoscaling_desired_replicas`, `ray_serve_deployment_queued_queries`.
"""

import itertools
from collections.abc import Sequence
from typing import Final, Literal, get_args

from deployments.instruments import Counter, Gauge, Histogram
from deployments.settings.promotion import Stage as TrialStage

# How a request comes in; "other" is what classifies nothing: health, descriptions, administration, and what no route
# or RPC takes.
Protocol = Literal[
    "predict", "huggingface", "oip", "tfserving", "oip_grpc", "tfserving_grpc", "explain", "handle", "other"
]
# What became of it: an answer, a refusal that is the caller's own doing, a failure (an error of the service, an
# overload, a deadline), or nobody was there any more.
Result = Literal["ok", "refused", "failed", "client_left"]
# Of a request, one after the other; together they are its whole time.
Stage = Literal["admission", "preprocess", "queue", "inference", "response"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
# Where an image waits, in this order: for a call to the Preprocessor, for a decoder, for a call to the Classifier, and
# for a batch.
QueuePlace = Literal["before_preprocessor", "preprocessor", "before_classifier", "classifier"]
# Where work ended before it was done: where it waited to come in, or where images wait; "gathering" is before either
# deployment.
Place = Literal["ingress", "gathering", "preprocessor", "classifier"]
# Why: its deadline passed or could not be met, or its caller left.
Reason = Literal["expired", "abandoned"]
CacheOutcome = Literal["hits", "joined", "misses", "evictions"]
# What became of an image of a real request, by the version that had it.
VersionOutcome = Literal["answered", "failed"]
# What became of an image that was offered to a candidate; the last three never reached it.
MirrorOutcome = Literal["agreed", "disagreed", "failed", "full", "expired", "busy"]
# Of an engine at one precision, by the comparison with the reference.
GuardVerdict = Literal["passed", "refused"]
# Why a decoder's process ended: by its image, which took more CPU than it may, until its deadline had passed, or nobody
# waited for it, or which crashed it; or somebody killed it who needed its memory.
DecoderEnd = Literal["too_slow", "expired", "abandoned", "crashed", "lost"]
# What came of loading a version.
LoadOutcome = Literal["loaded", "refused"]

# From an answer out of the cache, some 2 ms, to request_timeout_s of a patient config. Ratios of 1.5 to 2.5, and ends
# where latency goals usually are (10, 25, 50, 100, 250, 500 ms), so that a goal's share is read off without guessing.
DURATION_ENDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
# Powers of two, as engines pad to, and up to the most that max_batch_size may be.
BATCH_ENDS: Final = tuple(2.0**exponent for exponent in range(11))
FILL_ENDS: Final = tuple(eighth / 8 for eighth in range(1, 9))

REQUESTS = Counter("aperture_requests", "Requests, by what became of them.", "protocol", "model", "outcome")
REQUEST_DURATION = Histogram(
    "aperture_request_duration_seconds",
    "Requests, from when they came until they were answered.",
    DURATION_ENDS_S,
    *("protocol", "model", "result"),
)
STAGE_DURATION = Histogram(
    "aperture_request_stage_duration_seconds", "Stages of answered requests.", DURATION_ENDS_S, "model", "stage"
)
RECEIVED_IMAGES = Counter("aperture_received_images", "Images of requests, good and bad.", "protocol", "model")
RECEIVED_BYTES = Counter("aperture_received_bytes", "Bytes of those images, as they came.", "protocol", "model")
RECEIVED_PIXELS = Counter("aperture_received_pixels", "Pixels that they have by their headers.", "protocol", "model")
REFUSALS = Counter("aperture_refusals", "Requests and images answered with an error.", "code")
DROPPED_IMAGES = Counter("aperture_dropped_images", "Images dropped before they cost anything.", "place", "reason")
QUEUE_DURATION = Histogram(
    "aperture_queue_duration_seconds", "How long images waited.", DURATION_ENDS_S, "place", "model"
)
REQUEST_LOG_LOST = Counter("aperture_request_log_lost_lines", "Lines that the request log had no room or disk for.")
LOST_CALLS = Counter("aperture_lost_calls", "Calls whose replica ended or could not be reached any more.", "place")

CACHE: Final[dict[CacheOutcome, Counter]] = {
    "hits": Counter("aperture_cache_hits", "Images answered with what the cache had.", "model"),
    "joined": Counter("aperture_cache_joined", "Images answered with what was computed for an identical one.", "model"),
    "misses": Counter("aperture_cache_misses", "Images computed although there is a cache.", "model"),
    "evictions": Counter("aperture_cache_evictions", "Answers that the cache gave up for want of room.", "model"),
}
CACHE_SAVED = Counter("aperture_cache_saved_seconds", "Work that hits and joined images did not repeat.", "model")
CACHE_BYTES = Gauge("aperture_cache_bytes", "What the answer cache holds.", "model")

BATCH_IMAGES = Histogram("aperture_batch_images", "Images in a batch.", BATCH_ENDS, "model", "version")
BATCH_FILL = Histogram("aperture_batch_fill_ratio", "Images in a batch, of the most.", FILL_ENDS, "model", "version")
BATCH_DURATION = Histogram(
    "aperture_batch_duration_seconds", "How long a batch ran.", DURATION_ENDS_S, "model", "version"
)
PADDING = Counter("aperture_padding_images", "Empty places that an engine computed.", "model", "version")
BISECTIONS = Counter("aperture_batch_bisections", "Batches that failed and were run in halves.", "model", "version")
GUARD_VERDICTS = Counter(
    "aperture_guard_verdicts",
    "Engines compared with the reference when a version was loaded.",
    *("model", "engine", "precision", "verdict"),
)
VERSION_LOADS = Counter("aperture_version_loads", "Versions that were loaded or refused.", "model", "outcome")
ENGINE_INFO = Gauge(
    "aperture_engine_info",
    "1 for what a version runs on.",
    *("model", "version", "engine", "precision", "device"),
)
VERSION_STATE = Gauge("aperture_version_state", "1 for the state of a version.", "model", "version", "state")
PROMOTIONS = Counter("aperture_promotions", "Steps that candidates were taken.", "model", "version", "step")
IMAGES_IN_HAND = Gauge("aperture_images_in_hand", "Images that were let in and are not answered yet.")
DECODERS_STOPPED = Counter("aperture_decoders_stopped", "Processes of decoders that ended.", "reason")

VERSION_IMAGES = Counter(
    "aperture_version_images", "Images of requests, by the version that had them.", "model", "version", "outcome"
)
VERSION_LATENCY = Gauge(
    "aperture_version_latency_seconds",
    "Latency of a version's answers, preprocessing included.",
    *("model", "version", "quantile"),
)
MIRRORED_IMAGES = Counter("aperture_mirrored_images", "Images offered to a candidate.", "model", "version", "outcome")
MIRRORED_DIFFERENCE = Gauge(
    "aperture_mirrored_difference",
    "How far a candidate's probabilities are from those of the version that answers.",
    *("model", "version", "statistic"),
)


# What each deployment may come to count, whichever models there are.
_EXPECTED: Final[dict[str, dict[Counter, Sequence[tuple[str, ...]]]]] = {
    "Ingress": {
        DROPPED_IMAGES: list(itertools.product(("ingress", "gathering"), get_args(Reason))),
        LOST_CALLS: [("preprocessor",), ("classifier",)],
        REQUEST_LOG_LOST: [()],
    },
    "Preprocessor": {
        DROPPED_IMAGES: list(itertools.product(["preprocessor"], get_args(Reason))),
        DECODERS_STOPPED: [(reason,) for reason in get_args(DecoderEnd)],
    },
    "Classifier": {DROPPED_IMAGES: list(itertools.product(["classifier"], get_args(Reason)))},
}


def expect_in(deployment: Literal["Ingress", "Preprocessor", "Classifier"]) -> None:
    """Counts 0 of what may go wrong there: Prometheus sees an event as a change only of what was there before."""
    for counter, series in _EXPECTED[deployment].items():
        for values in series:
            counter.add(0, *values)


def count_dropped(place: Place, reason: Reason, images: int = 1) -> None:
    """Images that were dropped before they cost anything at that place."""
    DROPPED_IMAGES.add(images, place, reason)


def count_verdict(model: str, engine: str, precision: str, verdict: GuardVerdict) -> None:
    """Of the comparison with the reference that an engine goes through before it serves."""
    GUARD_VERDICTS.add(1, model, engine, precision, verdict)


def count_load(model: str, outcome: LoadOutcome) -> None:
    """A version was loaded, or why it cannot be is in the log."""
    VERSION_LOADS.add(1, model, outcome)


def count_decoder_stopped(reason: DecoderEnd) -> None:
    DECODERS_STOPPED.add(1, reason)


def observe_queue(place: QueuePlace, model: str, waited_s: float) -> None:
    """Of an image that waited there and was not dropped. `model`: "" where that is not known."""
    QUEUE_DURATION.observe(waited_s, place, model)


def count_cached(model: str, outcome: CacheOutcome, images: int = 1, saved_s: float = 0.0) -> None:
    """Images that the answer cache was asked for, or answers that it gave up.

    `saved_s`: how long preprocessing and inference of what was not computed again had taken.
    """
    CACHE[outcome].add(images, model)
    if saved_s > 0:
        CACHE_SAVED.add(saved_s, model)


def set_cache_bytes(model: str, held_bytes: int) -> None:
    """What this replica's answer cache holds for that model."""
    CACHE_BYTES.set(held_bytes, model)


def count_step(model: str, version: int, step: TrialStage) -> None:
    """`version`: of the candidate that has been taken there by this replica of the Ingress."""
    PROMOTIONS.add(1, model, str(version), step)


def count_of_version(model: str, version: int, outcome: VersionOutcome, images: int) -> None:
    VERSION_IMAGES.add(images, model, str(version), outcome)


def set_latency(model: str, version: int, quantile: float, latency_s: float) -> None:
    """Of the answers of that version, in this replica."""
    VERSION_LATENCY.set(latency_s, model, str(version), f"{quantile:g}")


def count_mirrored(model: str, version: int, outcome: MirrorOutcome, images: int) -> None:
    """`version`: the candidate's."""
    MIRRORED_IMAGES.add(images, model, str(version), outcome)


def set_difference(model: str, version: int, statistic: Literal["mean", "greatest"], difference: float) -> None:
    """Of the candidate's probabilities from those of the version that answers, in this replica."""
    MIRRORED_DIFFERENCE.set(difference, model, str(version), statistic)
