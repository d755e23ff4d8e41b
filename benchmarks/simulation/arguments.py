"""The command line of benchmarks.capacity."""

import argparse
from pathlib import Path

from benchmarks.arguments import CORES
from benchmarks.simulation.arrivals import Bursts
from benchmarks.simulation.fleet import REPLICAS_A_CLUSTER, NodeKind
from benchmarks.simulation.service_times import MS, BatchTimes
from benchmarks.simulation.shape import USUAL_GATHERING

# A photograph of 500 x 375 as JPEG, and 224 x 224 pixels of three bytes.
IMAGE_KB, PIXELS_KB = 110.0, 150.5
# From the decision for a replica to its first answer; an assumption (docs/scaling.md).
START_UP_S = 15.0
# In flight, so that the next one waits where the last one runs.
CALLS_A_REPLICA = 2


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--rps", type=float, help="images a second")
    add("--p99-ms", type=float, help="within which 99 %% of the requests are to be answered")
    add("--images-per-request", type=int, default=1, help="that clients send together")
    add("--burst", type=bursts, metavar="FACTOR:SECONDS:SHARE", help="bursts, their mean length and share of the time")
    add("--surge", type=float, default=2.0, help="of the load, that the autoscaler is shown to meet")
    add("--lost", type=int, default=1, help="classifiers that are shown to die")
    add("--no-events", action="store_true", help="leave surge and loss out")
    add("--measured", nargs="+", type=Path, default=[], metavar="FILE", help="of engines, preprocess or overhead")
    add("--engine", default="openvino fp32", help="which of those that benchmarks.engines measured")
    add("--batch-ms", type=batch_times, metavar="SIZE:MS,...", help="of the engine on a CPU, instead of measured ones")
    add("--gpu-batch-ms", type=batch_times, metavar="SIZE:MS,...", help="of the engine on a GPU")
    add("--batch-p90-ratio", type=float, help="90th percentile of a batch's time by its median (default: 1)")
    add("--max-batch-size", type=int, default=8)
    add("--runners", type=int, default=1, help="batches at once on one classifier")
    add("--classifier-threads", type=int, default=1, help="for which --batch-ms was measured")
    add("--preprocessor-threads", type=int, default=1)
    add("--max-calls", type=int, help="gathering.max_calls (default: two for each replica behind)")
    add("--max-images", type=int, default=USUAL_GATHERING.max_images, help="gathering.max_images; 1: no gathering")
    add("--network-ms", type=float, default=0.0, help="one way between two nodes")
    add("--image-kb", type=float, default=IMAGE_KB, help="an encoded image")
    add("--cpu-node", type=cpu_node, default=NodeKind(16), metavar="CORES[:PRICE]", help="price an hour (default: 16)")
    add("--gpu-node", type=gpu_node, metavar="CORES:GPUS[:PRICE]", help="price an hour")
    add("--replicas-per-cluster", type=int, default=REPLICAS_A_CLUSTER)
    add("--start-up-s", type=float, default=START_UP_S, help="of a replica, its node included")
    add("--seed", type=int, default=0)
    add("--plot", type=Path, help="a PNG")
    add("--validate", nargs="+", type=Path, metavar="FILE", help="what benchmarks.serve or compare printed")
    add("--cores", type=int, default=CORES, help="of the machine of --validate")
    return made


def batch_times(text: str) -> BatchTimes:
    """ "8:4.1,16:6.9": milliseconds by batch size. Raises ValueError otherwise, as argparse likes it."""
    pairs = [pair.split(":") for pair in text.split(",")]
    return BatchTimes({int(size): float(time_ms) * MS for size, time_ms in pairs})


def cpu_node(text: str) -> NodeKind:
    """ "16" or "16:0.5": cores, and the price of an hour."""
    cores, *price = text.split(":")
    return NodeKind(int(cores), 0, float(price[0]) if price else None)


def gpu_node(text: str) -> NodeKind:
    """ "16:1" or "16:1:2.5": cores, GPUs, and the price of an hour."""
    cores, gpus, *price = text.split(":")
    return NodeKind(int(cores), int(gpus), float(price[0]) if price else None)


def bursts(text: str) -> Bursts:
    """ "3:2:0.1": bursts of 3 times the rate of the rest, 2 s long on average, a tenth of the time."""
    factor, mean_s, share = map(float, text.split(":"))
    return Bursts(factor, mean_s, share)
