#!/usr/bin/env bash
# Runs the package's tests with AddressSanitizer in the compiled part: a read or write outside of its memory, or of memory
# that was given back, ends them with a report of where.
#
# Needs Linux, gcc with its libasan, and a Python with NumPy, SciPy and pytest: $PYTHON, or what test.sh made. Slow: it compiles
# everything once more, with debug assertions, and instrumented kernels take three times as long.
#
# Usage: python/sanitize.sh [arguments of pytest, with paths from python/tests]
set -euo pipefail
cd "$(dirname "$0")"

target=${CARGO_TARGET_DIR:-$PWD/../target}
python=${PYTHON:-$target/python/venv/bin/python}
command -v "$python" >/dev/null || { echo "sanitize: there is no $python: run python/test.sh first"; exit 1; }
runtime="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
host=$(rustc -vV | sed -n 's/^host: //p')

# Naming the target keeps the flags from build scripts and macros. The stable compiler has the sanitizer, unannounced.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$target/asan \
    CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
    cargo build --release --locked --package mediswift-python --target "$host"
package=$target/asan/package
rm -rf "$package"
mkdir -p "$package"
cp -r mediswift "$package"
cp "$target/asan/$host/release/libmediswift_python.so" "$package/mediswift/_core.abi3.so"

# Nobody frees everything at exit, Python least of all. Its own allocator would hide what happens inside of its arenas.
sanitized() {
    env LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONMALLOC=malloc \
        PYTHONPATH="$package" PYTHONDONTWRITEBYTECODE=1 "$python" "$@"
}
# That nothing is found says something where what is wrong is found.
nm -D "$package/mediswift/_core.abi3.so" | grep "U __asan_report_store4" >/dev/null ||
    { echo "sanitize: the module was not compiled with the sanitizer"; exit 1; }
if sanitized -c 'import ctypes, numpy; x = numpy.zeros(1000); ctypes.memset(x.ctypes.data + x.nbytes, 0, 1)' 2>/dev/null; then
    echo "sanitize: a write behind an array was not found"
    exit 1
fi
cd tests
# What is given back is kept for a while, so that its use is seen: memory grows.
sanitized -m pytest -p no:cacheprovider -rs -k "not hold_no_memory" "$@"
