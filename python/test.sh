#!/usr/bin/env bash
# Builds the wheel, installs it in a virtual environment and runs its tests.
#
# Needs Python 3.10 or newer with venv, and an index of packages for pip; says so and succeeds where it has none.
# PyTorch and transformers are tested where this Python has them installed. All that is made lies in target/.
#
# Usage: python/test.sh [arguments of pytest, with paths from python/tests]
set -euo pipefail
cd "$(dirname "$0")"

skip() {
    echo "python: skipped: $1"
    exit 0
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || skip "there is no $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skip "$("$python" -V) is older than 3.10"
target=${CARGO_TARGET_DIR:-$PWD/../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
venv=$target/python/venv
"$python" -m venv --system-site-packages "$venv" || skip "there is no venv: on Debian, install python3-venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "maturin>=1.9,<2" "numpy>=1.26" scipy pytest ||
    skip "pip cannot fetch maturin, NumPy, SciPy and pytest"

rm -rf "$target/python/wheels"
"$venv/bin/python" -m maturin build --quiet --release --locked --interpreter "$venv/bin/python" --out "$target/python/wheels"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
    "$target"/python/wheels/*.whl
# Not from here, where Python would import the sources, which lack the compiled part.
cd tests
PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -p no:cacheprovider -rs "$@"
