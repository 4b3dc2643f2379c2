# `python -m serving.index`: a node with some shards of an index, and what plans, builds and places one.
# It holds no vectors: mount the directory of an index at /index, and a volume of the node's own at /state.
#
# Not triton.Dockerfile with another command: a node starts, watches and restarts its Triton itself, the one that
# the PyPI package nvidia-pytriton carries and that the tests run. Shards need its python backend alone, none of
# the other backends and libraries of NVIDIA's image.
FROM python:3.11-slim-trixie AS build

WORKDIR /src
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY models models
COPY serving serving
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[index,triton]' faiss-cpu


FROM python:3.11-slim-trixie

# Triton's python backend takes its packages from the first python3 on PATH.
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN useradd --no-create-home --shell /usr/sbin/nologin --uid 10001 farshore \
    && install --directory --owner=10001 --group=10001 /state
USER 10001:10001
EXPOSE 8001

# Of a node that was given --http-port 8000.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10m --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]

# Which shards, and in how much memory, is for whoever starts it to say:
#   docker run --memory 8gb --shm-size 256m --read-only --tmpfs /tmp -v "$PWD/build/index/passages:/index:ro" \
#     -v state:/state farshore-index:local \
#     node --generation /index/generations/g1 --shards 0-3 --directory /state --memory 8GiB \
#     --host 0.0.0.0 --grpc-port 8001 --http-port 8000
ENTRYPOINT ["python", "-m", "serving.index"]
