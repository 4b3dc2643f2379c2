# The gateway alone: the `serve` extra, without torch and without a Triton of its own.
#
# 3.11-slim-trixie is Debian 13 with the newest Python 3.11: a rebuild picks up security fixes.
FROM python:3.11-slim-trixie AS build

WORKDIR /src
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY models models
COPY serving serving
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve]'


FROM python:3.11-slim-trixie

COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN useradd --no-create-home --shell /usr/sbin/nologin --uid 10001 farshore
USER 10001:10001
EXPOSE 8080

HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]

# /models is the repository that Triton serves: its manifest names the model and its limits.
CMD ["python", "-m", "serving", \
    "--repository", "/models", \
    "--triton-url", "triton:8001", \
    "--host", "0.0.0.0", "--port", "8080"]
