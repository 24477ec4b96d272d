#!/usr/bin/env bash
# install.sh LOCK [PYTHON]: a .venv with everything requirements/LOCK.lock names, and the project itself, editable.
# The lock is complete, and leaves out on purpose what KerasHub asks for: no dependency is looked for.
# uv does it in a tenth of pip's time. It does not read pip's settings, so mirrors and certificates that pip
# knows are handed on; where it fails all the same, pip has the last word.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements/$1.lock

if [ ! -x .venv/bin/python ]; then
  python=$(requirements/find_python.sh "${2:-}")
  echo "using $("$python" --version), $python"
  "$python" -m venv .venv
fi
grep -qs "$(pwd)/.venv" .venv/bin/pip || { echo ".venv was made in another folder; remove it" >&2; exit 1; }

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip_setting() {  # pip_setting NAME: the last value pip has for it; the environment wins over files
  pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.$1='\(.*\)'$/\1/p" | tail -1
}

install_with_uv() {
  pip install --quiet --require-hashes -r requirements/uv.lock || return 1
  local index extra links certificates
  index=$(pip_setting index-url) extra=$(pip_setting extra-index-url)
  links=$(pip_setting find-links) certificates=$(pip_setting cert)
  [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  [ -z "$extra" ] || export UV_INDEX=${UV_INDEX:-$extra}
  [ -z "$links" ] || export UV_FIND_LINKS=${UV_FIND_LINKS:-$links}
  [ -z "$certificates" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
  # Compiled here, once: where Python may not write, every process of Airflow would compile for eight seconds.
  # Look at all indexes, as pip does. Hashes decide what is taken, not the place it comes from.
  UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} \
    .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --no-deps --require-hashes \
    -r "$lock"
}

started=$SECONDS
echo "installing $lock into .venv"
install_with_uv || {
  echo "uv could not; pip takes over, for a minute or two"
  pip install --quiet --no-deps --require-hashes -r "$lock"
}
# setuptools is in the lock: nothing unlocked is fetched to build with. It warns of every editable installation.
PYTHONWARNINGS=ignore pip install --quiet --no-deps --no-build-isolation --no-index --editable .
echo "installed in $((SECONDS - started)) s"
