# mosso in a container. The base is CUDA's runtime; for machines without a GPU take a smaller one:
#   docker build --build-arg BASE=ubuntu:24.04 -t mosso .
ARG BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04

FROM ${BASE} AS base
# A C compiler is needed at run time too: Triton builds the launchers of its kernels with it, and the CPU path
# its own kernels. Versions are the base image's: it is the base that is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/mosso
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/mosso/bin/pip install --constraint constraints.txt '.[hub,mcp,otel]'

FROM base
# Nothing but /cache and /tmp is ever written: the root file system may be read-only.
#   /cache/models  what `mosso pull` brings     /cache  compiled kernels, stored responses, batches
# The models' folder has NIM's name for it: MOSSO_MODELS, which is stronger, would leave NIM_CACHE_PATH no effect.
ENV PATH=/opt/mosso/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    XDG_STATE_HOME=/cache/state \
    TRITON_CACHE_DIR=/cache/triton \
    NIM_CACHE_PATH=/cache/models \
    MOSSO_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN groupadd --system --gid 10001 mosso \
 && useradd --system --uid 10001 --gid mosso --home-dir /cache --shell /usr/sbin/nologin mosso \
 && install -d -o mosso -g mosso /cache
COPY --from=build /opt/mosso /opt/mosso
USER 10001:10001
VOLUME /cache
EXPOSE 8000
# Ready once the model answers; 120b takes up to a minute on a first start.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + (os.environ.get('MOSSO_PORT') or os.environ.get('NIM_SERVER_PORT') or '8000') + '/v1/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mosso"]
CMD ["serve"]
