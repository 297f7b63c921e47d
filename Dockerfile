# jemb with CUDA: docker build -t jemb .
#   docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" jemb train shards=shards output=run
# Any Debian-like base with python3 >= 3.11 does: --build-arg BASE_IMAGE=python:3.12-slim for a machine without a GPU.
# (torch brings its own CUDA libraries; the base brings the driver's hooks.)
ARG BASE_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04

FROM ${BASE_IMAGE} AS build
RUN command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/jemb
COPY constraints.txt pyproject.toml README.md LICENSE /src/
COPY jemb /src/jemb
COPY conf /src/conf
RUN /opt/jemb/bin/pip install --no-cache-dir --constraint /src/constraints.txt /src

FROM ${BASE_IMAGE}
RUN command -v python3 >/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*)
COPY --from=build /opt/jemb /opt/jemb
RUN useradd --create-home --uid 10001 jemb && mkdir /work && chown jemb /work
ENV PATH=/opt/jemb/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp HF_HOME=/tmp/huggingface
USER jemb
WORKDIR /work
ENTRYPOINT ["jemb"]
CMD ["--help"]
