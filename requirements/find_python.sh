#!/usr/bin/env bash
# find_python.sh [PYTHON]: print the path of the Python to build .venv with: the one named, or the newest that is found of
# those that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/.."
read -r oldest beyond < <(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' pyproject.toml)
allowed="Python 3.$oldest to 3.$((beyond - 1))"

fits() {  # fits PYTHON: whether it runs, and its version is one of those
  "$1" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] < (3, $beyond))" 2>/dev/null
}

if [ -n "${1:-}" ]; then
  fits "$1" || { echo "$allowed is needed; '$1' is $("$1" --version 2>&1 | tail -1 || true)" >&2; exit 1; }
  found=$1
else
  found=
  for ((minor = beyond - 1; minor >= oldest; minor--)); do
    if fits "python3.$minor"; then found=python3.$minor; break; fi
  done
  if [ -z "$found" ] && fits python3; then found=python3; fi
  if [ -z "$found" ]; then
    echo "$allowed is needed, and none was found. Say make PYTHON=/path/to/python3.$((beyond - 1))" >&2
    exit 1
  fi
fi
if ! "$found" -c "import ensurepip, venv" 2>/dev/null; then
  version=$("$found" -c "import sys; print('%d.%d' % sys.version_info[:2])")
  echo "'$found' cannot make environments. On Debian and Ubuntu: apt install python$version-venv" >&2
  exit 1
fi
"$found" -c "import sys; print(sys.executable)"
