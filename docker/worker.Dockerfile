# The worker that trains: Airflow, lesion_tasks and TensorFlow. Serves the queue "gpu", on a CPU as well.
#   docker build -f docker/worker.Dockerfile --build-arg DEVICE=cpu .
#   docker build -f docker/worker.Dockerfile --build-arg DEVICE=gpu .    CUDA comes with the wheels of the lock
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG DEVICE=cpu
COPY requirements/worker-${DEVICE}.lock /tmp/lock
RUN python -m venv /opt/lesion/venv \
 && /opt/lesion/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-compile -r /tmp/lock
COPY pyproject.toml README.md /src/
COPY lesion_tasks /src/lesion_tasks
RUN /opt/lesion/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-compile /src

FROM ${BASE}
ARG DEVICE=cpu
ARG CODE_VERSION=unknown
LABEL org.opencontainers.image.title="lesion-worker-${DEVICE}" \
      org.opencontainers.image.description="The worker that trains, on ${DEVICE}" \
      org.opencontainers.image.revision="${CODE_VERSION}"
RUN useradd --uid 50000 --create-home --home-dir /opt/lesion/home lesion \
 && install -d -o lesion /opt/lesion/airflow /opt/lesion/cache
COPY --from=build /opt/lesion/venv /opt/lesion/venv
COPY dags /opt/lesion/dags
COPY plugins /opt/lesion/plugins
ENV PATH=/opt/lesion/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TF_CPP_MIN_LOG_LEVEL=2 \
    AIRFLOW_HOME=/opt/lesion/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/lesion/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/lesion/plugins AIRFLOW__CORE__LOAD_EXAMPLES=False \
    LESION_HOME=/opt/lesion/cache LESION_CODE_VERSION=${CODE_VERSION}
USER lesion
WORKDIR /opt/lesion/home
ENTRYPOINT ["airflow"]
