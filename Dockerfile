# The service alone: no torch, no compiler, no root.
#
#   docker build -t marmot:cpu .
#   docker build -t marmot:gpu --build-arg RUNTIME=gpu .
#   docker build -t marmot:otel --build-arg REQUIREMENTS=otel .         with traces
#   docker run --read-only --tmpfs /tmp -p 8000:8000 \
#       -v ./var/bundle:/bundle:ro -v marmot:/var/lib/marmot marmot:cpu
#
# With API keys: -v ./keys:/keys:ro -e MARMOT_KEYS=/keys (`marmot key` makes them; the file must be
# readable by user 10001). Without them whoever reaches the published port may ask, write and delete.
#
# BASE is any image with Python 3.11 or newer and its venv module: this one, or a bare Debian 12
# with python3-venv. For a GPU it needs no CUDA: that comes with the runtime, the driver from the host.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG RUNTIME=cpu
ARG REQUIREMENTS=serve
WORKDIR /src
COPY requirements/serve.txt requirements/otel.txt ./
# The two runtimes own the same module, so one takes the other's line.
RUN case "${RUNTIME}" in \
        cpu) ;; \
        gpu) sed -i 's/^onnxruntime==/onnxruntime-gpu[cuda,cudnn]==/' serve.txt ;; \
        *) echo "RUNTIME is cpu or gpu, not ${RUNTIME}" >&2; exit 1 ;; \
    esac \
    && python3 -m venv /opt/marmot \
    && /opt/marmot/bin/python -m pip install --no-cache-dir -r "${REQUIREMENTS}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY cache cache
COPY models models
COPY service service
COPY loadtest loadtest
RUN /opt/marmot/bin/python -m pip install --no-cache-dir --no-deps . \
    && /opt/marmot/bin/python -m pip uninstall -y setuptools pip \
    && find /opt/marmot -depth -type d \( -name tests -o -name include \) -exec rm -r {} + \
    && mkdir /opt/marmot/cuda /var/lib/marmot \
    && find /opt/marmot/lib -path '*/nvidia/*/lib/*.so*' -exec ln -st /opt/marmot/cuda {} +

FROM ${BASE}
COPY --from=build /opt/marmot /opt/marmot
COPY --from=build --chown=10001:10001 /var/lib/marmot /var/lib/marmot
# A container's 0.0.0.0 is its own network: what opens it to others is publishing the port.
ENV LD_LIBRARY_PATH=/opt/marmot/cuda \
    MARMOT_BUNDLE=/bundle \
    MARMOT_CACHE=lmdb:/var/lib/marmot/cache \
    MARMOT_HOST=0.0.0.0 \
    MARMOT_NO_KEYS=1 \
    MARMOT_LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/marmot
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["/opt/marmot/bin/python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('MARMOT_PORT', 8000)}/health/live\", timeout=2)"]
ENTRYPOINT ["/opt/marmot/bin/marmot"]
CMD ["serve"]
