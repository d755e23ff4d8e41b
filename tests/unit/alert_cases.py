"""For each alert of observability/alerts.yml, series by which it fires and others by which it does not.

Series are written as promtool has them: a value each minute, `0+60x30` is 0, 60, 120, ... for half an hour.
"""

from dataclasses import dataclass
from typing import Final

Series = dict[str, str]

STEADY = "0+600x120"  # ten a second


@dataclass(frozen=True)
class Case:
    fires: Series
    quiet: Series
    labels: dict[str, str]
    summary: str
    # By then it fires; two hours have all that rules look back on.
    minute: int = 100


def requests(**rates: str) -> Series:
    """Of the protocol predict, by outcome."""
    return {
        f'ray_aperture_requests_total{{protocol="predict", model="shapes", outcome="{outcome}"}}': values
        for outcome, values in rates.items()
    }


def latencies(at_most_s: str) -> Series:
    """Ten a second of them."""
    name = "ray_aperture_request_duration_seconds_bucket"
    labels = 'protocol="predict", model="shapes", result="ok"'
    ends = ("0.1", "0.25", "0.5", "1", "+Inf")
    reached = ends.index(at_most_s)
    return {f'{name}{{{labels}, le="{le}"}}': "0x120" if at < reached else STEADY for at, le in enumerate(ends)}


def waits(seconds: str) -> Series:
    """`seconds`: of all images together, ten of which come each second."""
    name, labels = "ray_aperture_queue_duration_seconds", 'place="classifier", model="shapes"'
    return {f"{name}_sum{{{labels}}}": seconds, f"{name}_count{{{labels}}}": STEADY}


def mirrored(agreed: str, disagreed: str) -> Series:
    name, labels = "ray_aperture_mirrored_images_total", 'model="shapes", version="2"'
    return {
        f'{name}{{{labels}, outcome="agreed"}}': agreed,
        f'{name}{{{labels}, outcome="disagreed"}}': disagreed,
        f'{name}{{{labels}, outcome="busy"}}': STEADY,
    }


def cached(hits: str, misses: str) -> Series:
    name, labels = "ray_aperture_cache", 'model="shapes"'
    return {
        f"{name}_hits_total{{{labels}}}": hits,
        f"{name}_joined_total{{{labels}}}": "0x120",
        f"{name}_misses_total{{{labels}}}": misses,
    }


REPLICA = 'application="aperture", deployment="shapes"'
HEALTHY = f'ray_serve_deployment_replica_healthy{{{REPLICA}, replica="a"}}'
WANTED = f"ray_serve_autoscaling_target_replicas{{{REPLICA}}}"
STATUS = 'ray_serve_application_status{application="aperture"}'
PROXY = 'ray_serve_proxy_status{node_ip_address="10.0.0.1"}'
HTTP = 'ray_serve_num_http_requests_total{{application="{}", status_code="503"}}'
GUARD = 'ray_aperture_guard_verdicts_total{{model="shapes", engine="openvino", precision="int8", verdict="{}"}}'
LOADS = 'ray_aperture_version_loads_total{{model="shapes", outcome="{}"}}'
STEPS = 'ray_aperture_promotions_total{{model="shapes", version="2", step="{}"}}'
BISECTIONS = 'ray_aperture_batch_bisections_total{model="shapes", version="1"}'
DECODERS = 'ray_aperture_decoders_stopped_total{{reason="{}"}}'
MEMORY = 'ray_node_mem_{}{{ip="10.0.0.1"}}'


def starts(*replicas: str) -> Series:
    """When each of them started: `_x95 1x25` after 95 minutes."""
    return {
        f'ray_serve_deployment_replica_starts_total{{{REPLICA}, replica="{number}"}}': values
        for number, values in enumerate(replicas)
    }


LATELY, LONG_AGO = "_x94 1x25", "1x120"

CASES: Final[dict[str, Case]] = {
    "ApertureDown": Case(
        fires={STATUS: "6x80"},
        quiet={STATUS: "6x120"},
        labels={},
        summary="Nothing tells of Serve any more; the service is down, or its figures are not collected.",
    ),
    "ApertureNoReplica": Case(
        fires={WANTED: "2x120", HEALTHY: "1x80"},
        quiet={WANTED: "2x120", HEALTHY: "1x120"},
        labels={"application": "aperture", "deployment": "shapes"},
        summary="shapes has no healthy replica.",
    ),
    "ApertureDeployFailed": Case(
        fires={STATUS: "1x120"},
        quiet={STATUS: "5x120"},
        labels={"application": "aperture"},
        summary="What was deployed last of aperture does not run; what ran before may go on.",
    ),
    "ApertureUnreachable": Case(
        fires={HTTP.format(""): "0+60x120"},
        quiet={HTTP.format(""): "60x120", HTTP.format("aperture"): STEADY},
        labels={},
        summary="1 requests a second find no Ingress, and are answered by the proxy.",
    ),
    "ApertureProxyDown": Case(
        fires={PROXY: "3x120"},
        quiet={PROXY: "2x120"},
        labels={"node_ip_address": "10.0.0.1"},
        summary="HAProxy of node 10.0.0.1 fails its checks.",
    ),
    "ApertureReplicasRestart": Case(
        fires={WANTED: "2x120", **starts(LONG_AGO, LONG_AGO, LATELY, LATELY, LATELY)},
        # Two more were wanted, and one was replaced.
        quiet={WANTED: "2x94 4x25", **starts(LONG_AGO, LONG_AGO, LATELY, LATELY, LATELY)},
        labels={"application": "aperture", "deployment": "shapes"},
        summary="3 replicas of shapes were replaced within 15 minutes.",
    ),
    "ApertureErrors": Case(
        fires=requests(ok=STEADY, internal="0+6x120", inference_failed="0+6x120"),
        quiet=requests(ok=STEADY, internal="0+5x120", overloaded=STEADY, corrupt_image=STEADY),
        labels={},
        summary="1.961% of all requests end with an error of the service.",
    ),
    "ApertureRefuses": Case(
        fires=requests(ok=STEADY, overloaded=STEADY),
        quiet=requests(ok=STEADY, overloaded="0+30x120", quota_exceeded=STEADY),
        labels={},
        summary="50% of all requests are refused, as they would not be done in time.",
    ),
    "ApertureSlow": Case(
        fires=latencies("1"),
        quiet=latencies("0.5"),
        labels={"model": "shapes"},
        summary="One in a hundred answers of shapes takes 995ms or longer.",
    ),
    "ApertureLate": Case(
        fires=requests(ok=STEADY, deadline_exceeded=STEADY),
        quiet=requests(ok=STEADY, deadline_exceeded="0+5x120"),
        labels={},
        summary="50% of all requests are over their deadline.",
    ),
    "ApertureQueueGrows": Case(
        # From 0.1 s for each image to 0.4 s.
        fires=waits("0+60x85 5340+240x35"),
        quiet=waits("0+240x120"),
        labels={"place": "classifier", "model": "shapes"},
        summary="Images wait 400ms at classifier, twice as long as half an hour ago.",
    ),
    "ApertureBatchesFail": Case(
        fires={BISECTIONS: "0+6x120"},
        quiet={BISECTIONS: "7x120"},
        labels={"model": "shapes", "version": "1"},
        summary="Batches of shapes, version 1, fail and are run in halves.",
    ),
    "ApertureDecodersStopped": Case(
        fires={DECODERS.format("too_slow"): "0+60x120"},
        quiet={DECODERS.format("too_slow"): "0+5x120", DECODERS.format("abandoned"): STEADY},
        labels={"reason": "too_slow"},
        summary="Decoders end all the time (too_slow): somebody sends images that take too long, or crash them.",
    ),
    "ApertureGuardRefused": Case(
        fires={GUARD.format("refused"): "_x90 1x30"},
        quiet={GUARD.format("refused"): "1x120", GUARD.format("passed"): "_x90 1x30"},
        labels={"model": "shapes", "engine": "openvino", "precision": "int8"},
        summary="openvino at int8 does not agree with the reference for shapes.",
    ),
    "ApertureVersionRefused": Case(
        fires={LOADS.format("refused"): "0x90 1x30"},
        quiet={LOADS.format("refused"): "1x120", LOADS.format("loaded"): "0x90 1x30"},
        labels={"model": "shapes"},
        summary="A version of shapes cannot be served; what was served before goes on.",
    ),
    "ApertureCanaryRolledBack": Case(
        fires={STEPS.format("rolled_back"): "_x90 1x30"},
        quiet={STEPS.format("rolled_back"): "0x120", STEPS.format("stable"): "_x90 1x30"},
        labels={"model": "shapes", "version": "2"},
        summary="Version 2 of shapes left its bounds and gets no requests any more.",
    ),
    "ApertureShadowDisagrees": Case(
        fires=mirrored(agreed="0+9x120", disagreed="0+1x120"),
        # All of too few.
        quiet=mirrored(agreed="0x120", disagreed="0+3x120"),
        labels={"model": "shapes", "version": "2"},
        summary="Version 2 of shapes names the same class for 90% of the images alone.",
    ),
    "ApertureCacheUseless": Case(
        fires=cached(hits="0x120", misses=STEADY),
        quiet=cached(hits="0+60x120", misses=STEADY),
        labels={"model": "shapes"},
        summary="0% of the images of shapes were answered by its cache, which costs memory.",
    ),
    "ApertureMemory": Case(
        fires={MEMORY.format("used"): "92x120", MEMORY.format("total"): "100x120"},
        quiet={MEMORY.format("used"): "90x120", MEMORY.format("total"): "100x120"},
        labels={"ip": "10.0.0.1"},
        summary="Node 10.0.0.1 has used 92% of its memory; Ray ends processes at 95 %.",
    ),
}
