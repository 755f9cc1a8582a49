# One image for chief, workers, parameter servers and TensorBoard.
#
#   docker build -t tf-backup:cpu .
#   docker build -t tf-backup:gpu --build-arg VARIANT=gpu .
#   docker build -t tf-backup:gpu --build-arg VARIANT=gpu --build-arg EXTRAS=scripts,metrics,models .
#
# The last has the TensorFlow model garden, too, which cuts ImageNet's images. Versions are those of
# the lock files.
ARG BASE=docker.io/library/python:3.11.11-slim-bookworm

FROM ${BASE} AS packages
ARG VARIANT=cpu
ARG EXTRAS=scripts,metrics
WORKDIR /build
# What the requirements are read from, and no more: a change of code installs nothing anew.
COPY LICENSE pyproject.toml requirements.lock requirements-gpu.lock requirements-models.lock setup.py ./
COPY tf_backup/__init__.py tf_backup/
RUN python -m venv /opt/venv \
 && grep -v '^-r' requirements-models.lock >models.lock \
 && pip="/opt/venv/bin/python -m pip --disable-pip-version-check install --no-cache-dir -c requirements.lock -c requirements-gpu.lock -c models.lock" \
 && $pip setuptools wheel \
 && case "$EXTRAS" in *models*) $pip setuptools_scm ;; esac \
 && $pip --no-build-isolation ".[$EXTRAS]" \
 && case "$VARIANT" in \
      cpu) ;; \
      gpu) $pip "tensorflow[and-cuda]" ;; \
      *) echo "VARIANT is '$VARIANT'; it must be cpu or gpu." >&2; exit 1 ;; \
    esac \
 && /opt/venv/bin/python -m pip uninstall --yes tf_backup

FROM ${BASE}
COPY --from=packages /opt/venv /opt/venv
# The root file system may be read-only: what libraries keep goes to /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY LICENSE ./
COPY tf_backup tf_backup
COPY models models
COPY scripts scripts
USER 1000:1000
CMD ["python", "scripts/train.py"]
