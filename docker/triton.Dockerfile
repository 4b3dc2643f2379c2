# NVIDIA Triton with the Python packages that our python-backend models import. It holds no weights:
# mount a packaged repository at /models.
#
# 26.09-py3 is Triton 2.73.0, the release of the tritonclient in constraints.txt, on Ubuntu 24.04 with
# Python 3.12 and CUDA 13.4 (onnxruntime-gpu needs CUDA 13). NVIDIA builds it with NumPy 1, which is
# what constraints.txt holds.
FROM nvcr.io/nvidia/tritonserver:26.09-py3

# onnxruntime for CPUs, onnxruntime-gpu for NVIDIA GPUs.
ARG ONNXRUNTIME=onnxruntime

# A virtual environment of its own, so that pip never has to replace a package that apt installed.
# The python backend embeds Python and takes its packages from the first python3 on PATH.
COPY constraints.txt /tmp/
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir \
        --constraint /tmp/constraints.txt "${ONNXRUNTIME}" tokenizers numpy
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1

# ONNX Runtime falls back to the CPU when a CUDA library is missing: fail here instead of serving
# slowly. libcuda.so.1 belongs to the driver, which the container gets when it starts.
RUN package="$(python3 -c 'import onnxruntime, tokenizers; print(onnxruntime.__path__[0])')" \
    && cuda="${package}/capi/libonnxruntime_providers_cuda.so" \
    && if [ -e "${cuda}" ]; then \
        ldd "${cuda}" > /tmp/ldd \
        && awk '/not found/ && !/libcuda\.so\.1 / {print; missing = 1} END {exit missing}' /tmp/ldd; \
    fi

# Where ONNX Runtime keeps the TensorRT engines that it builds: a volume that is mounted here begins with
# this directory's owner.
RUN install --directory --owner=1000 --group=1000 /tmp/tensorrt-engines

# The base image's own user, triton-server.
USER 1000:1000
EXPOSE 8001 8002

HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]

# The base image's entrypoint sets CUDA up and then becomes this command. HTTP serves the health check
# alone, hence 127.0.0.1. Tensors reach python models through /dev/shm, which Docker limits to 64 MB:
# start the container with --shm-size=256m.
CMD ["tritonserver", \
    "--model-repository=/models", \
    "--grpc-address=0.0.0.0", "--grpc-port=8001", \
    "--metrics-address=0.0.0.0", "--metrics-port=8002", \
    "--http-address=127.0.0.1", "--http-port=8000", \
    "--strict-readiness=true", "--exit-timeout-secs=10"]
