#!/bin/sh
# Makes .venv with the pinned packages of pyproject.toml. Safe to run again: it only does what is missing.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd -P)

in_range='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

# A .venv without pip was interrupted, or made without Debian's python3-venv. One whose commands name another Python came
# here with a checkout that was moved or copied.
is_usable() {
    .venv/bin/python -c "$in_range" && .venv/bin/python -m pip --version && grep -qF "$root/.venv/bin/" .venv/bin/pip
}

if ! is_usable >/dev/null 2>&1; then
    python=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$in_range" 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        found=$(python3 --version 2>&1 || true)
        echo "Aperture needs Python 3.11, 3.12 or 3.13, and this machine has ${found:-none}; name one with PYTHON=/path/to/python3." >&2
        exit 1
    fi
    echo "Making .venv with $("$python" --version)"
    if ! "$python" -m venv --clear .venv >/dev/null; then
        echo "Python's venv module is incomplete here; on Debian: apt install python3-venv." >&2
        exit 1
    fi
fi

echo "Installing the packages of pyproject.toml (the first time takes some minutes)"
# What is imported is compiled then; to compile all that is installed takes more than a minute.
if ! .venv/bin/python -m pip install --disable-pip-version-check --no-compile --editable '.[dev]'; then
    echo "The packages could not be installed; the reason stands above." >&2
    exit 1
fi
echo "Measuring which engine runs the bundled model best on this machine (the first time takes up to a minute)"
if ! .venv/bin/python -m scripts.prepare configs/local.yaml; then
    echo "That failed, for the reason above; serving the bundled model will meet it, too." >&2
fi
# The Makefile compares it with where the checkout is now.
echo "$root" >.venv/installed
