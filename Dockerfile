# jemb with CUDA:   docker build --tag jemb .
# without a GPU:    docker build --tag jemb --build-arg BASE_IMAGE=python:3.12-slim .
# run as yourself:  docker run --rm --gpus all --shm-size 1g --user "$(id -u):$(id -g)" -v "$PWD:/work" jemb train shards=shards output=run
# several GPUs:     … --entrypoint torchrun jemb --standalone --nproc-per-node 8 -m jemb.app.train shards=shards output=run
#
# The base brings what connects a container to the GPU's driver, and should be of the CUDA version that torch is built for
# (2.13: 13.0), so that a driver that is too old is refused at the start; the libraries of CUDA come with torch. Any base
# with apt-get does.
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

# wget: for the probes of KubeRay.
FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008,SC2046  # versions differ from base to base; the words are package names
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
        $(python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb

# What jemb needs: large, and the same until pyproject.toml or constraints.txt changes.
FROM python AS needs
ARG EXTRAS="deepspeed ray s3"
COPY constraints.txt pyproject.toml /src/
RUN python3 -m venv /opt/jemb \
    && /opt/jemb/bin/python -c 'import sys, tomllib; project = tomllib.load(open("/src/pyproject.toml", "rb"))["project"]; \
extras = [need for extra in sys.argv[1:] for need in project["optional-dependencies"][extra]]; \
print(*project["dependencies"], *extras, sep="\n")' ${EXTRAS} > /src/needs.txt \
    && /opt/jemb/bin/pip install --no-cache-dir --constraint /src/constraints.txt --requirement /src/needs.txt

FROM needs AS wheel
COPY README.md LICENSE /src/
COPY jemb /src/jemb
COPY conf /src/conf
RUN /opt/jemb/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src

FROM python
COPY --from=needs /opt/jemb /opt/jemb
COPY --from=wheel /wheel /tmp/wheel
RUN /opt/jemb/bin/pip install --no-cache-dir --no-index --no-deps /tmp/wheel/*.whl && rm -r /tmp/wheel \
    && ln -s /opt/jemb/bin/jemb /opt/jemb/bin/ray /opt/jemb/bin/torchrun /usr/local/bin \
    && useradd --create-home --uid 10001 jemb && mkdir /work && chown jemb /work
# The links are for login shells, which set a PATH of their own; HOME and USER for a --user who has no name in here.
ENV PATH=/opt/jemb/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=jemb HF_HOME=/tmp/huggingface
USER 10001
WORKDIR /work
ENTRYPOINT ["jemb"]
CMD ["--help"]
