#!/usr/bin/env bash
# Make or repair the environment: scripts/install.sh [FOLDER], .venv unless said otherwise.
# Quick when nothing is to do. PYTHON names the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=$venv/bin/python
# What was installed, and where: the stamp is written last, so a stopped install has none.
key() { { "$python" --version; pwd -P; cat requirements.txt pyproject.toml setup.py; } | cksum; }

suitable() { # does this interpreter run, is it 3.11 to 3.13, can it make an environment?
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    2>/dev/null
}

if [ -x "$python" ] && suitable "$python"; then
  if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$(key)" ]; then
    reason=$("$python" scripts/environment.py "$venv") && exit 0
    echo "$venv needs repair: $reason"
  fi
  case $("$python" scripts/environment.py "$venv" || true) in
    *"was moved or copied"*) echo "$venv was moved here; making it anew"; rm -rf "$venv" ;;
  esac
elif [ -e "$venv" ]; then
  echo "$venv has no working Python from 3.11 to 3.13; making it anew"
  rm -rf "$venv"
fi

if [ ! -e "$venv" ]; then
  chosen=
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if suitable "$candidate"; then chosen=$candidate; break; fi
  done
  if [ -z "$chosen" ]; then
    echo "No suitable Python among: ${PYTHON:-python3 python3.13 python3.12 python3.11 python}." >&2
    echo "Install Python 3.11, 3.12 or 3.13 with its venv module (on Debian: python3-venv), or" >&2
    echo "name one: make book PYTHON=/path/to/python3.12" >&2
    exit 1
  fi
  echo "making $venv with $("$chosen" --version)"
  "$chosen" -m venv "$venv"
fi

rm -f "$venv/.stamp"
pip=("$python" -m pip --disable-pip-version-check install --progress-bar off)
echo "installing requirements.txt into $venv (some minutes the first time)"
forgotten=$("$python" scripts/environment.py "$venv" --forget)
[ -z "$forgotten" ] || echo "half installed, so installed again: $forgotten"
"${pip[@]}" --quiet --requirement requirements.txt
"${pip[@]}" --quiet --no-deps --no-build-isolation --editable .
"$python" scripts/environment.py "$venv"
key >"$venv/.stamp"
echo "$venv is ready"
