#!/usr/bin/env bash
# Write every lock anew from pyproject.toml: name==version with hashes, for every Python and
# system that pyproject.toml allows, and no index host. Needs `uv` on the PATH.
# Never in a lock, whatever asks for it: tensorflow-text, with which TensorFlow would come a second time, and
# backports-strenum, which no Python of ours may have and of LiteRT only its compiler for other chips wants.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {  # lock NAME EXTRA...
  local name=$1 extras=()
  shift
  for extra in "$@"; do extras+=(--extra "$extra"); done
  # The versions of the present lock are kept where they fit. Its hashes are not: they may be those of one system's files.
  sed -n -i 's/^\([^ #]*==[^ ]*\).*/\1/p' "requirements/$name.lock"
  uv pip compile --quiet pyproject.toml "${extras[@]}" --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate --excludes <(printf '%s\n' tensorflow-text backports-strenum) \
    --output-file "requirements/$name.lock"
}
# The site needs nothing of the project's own.
uv pip compile --quiet --group site --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate --output-file requirements/site.lock
lock dev airflow train local heic dicom onnx litert kerashub dev
lock laptop airflow train local
lock kerashub airflow train local kerashub
lock airflow airflow cluster
lock worker-cpu airflow cluster train
lock worker-gpu airflow cluster train-gpu
