#!/usr/bin/env bash
# The tests of files, kernels, engine and data on 64-bit Arm, which QEMU imitates on other CPUs.
#
# A Rust that builds for Arm, a cross linker and QEMU are used where they are there:
#   rustup target add aarch64-unknown-linux-gnu
#   apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# Otherwise, as root on Debian, all of them are set up in a folder of their own, $ARM_ROOT (two
# gigabytes), and the rest of the system stays as it is. Where neither works, this says so and succeeds.
#
# Usage: tests/aarch64.sh [arguments of cargo test]
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
root=${ARM_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/mediswift-aarch64}

skip() {
    echo "aarch64: skipped: $1"
    exit 0
}

[ "$(uname -m)" != aarch64 ] || skip "this CPU runs the ordinary tests natively"

if command -v aarch64-linux-gnu-gcc qemu-aarch64 >/dev/null &&
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    exec cargo test --release --locked --target "$target" \
        -p mediswift-files -p mediswift-kernels -p mediswift-engine -p mediswift-data "$@"
fi

# Debian's own Rust with its standard library for Arm, in the folder $1.
set_up() {
    command -v debootstrap || { apt-get update && apt-get install -y debootstrap; } || return 1
    debootstrap --variant=minbase trixie "$1" || return 1
    # What can be made anew at any time need not survive a power cut.
    echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/quick"
    cp /etc/resolv.conf "$1/etc/" || return 1
    chroot "$1" dpkg --add-architecture arm64 || return 1
    chroot "$1" apt-get update || return 1
    DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install -y --no-install-recommends \
        rustc-web cargo-web libstd-rust-web-dev:arm64 gcc libc6-dev gcc-aarch64-linux-gnu \
        libc6-dev-arm64-cross qemu-user || return 1
    mkdir "$1/src" "$1/cargo" "$1/target"
}

if [ ! -d "$root" ]; then
    [ "$(id -u)" = 0 ] && command -v apt-get unshare >/dev/null ||
        skip "there is no Rust for $target with linker and QEMU, and this is not root on Debian"
    echo "aarch64: setting up a Rust for $target in $root (minutes, once)"
    rm -rf "$root.partial"
    mkdir -p "$root.partial"
    set_up "$root.partial" >"$root.log" 2>&1 || skip "setting up failed, see $root.log"
    mv "$root.partial" "$root"
fi

# The crates of every platform, fetched by the cargo that reaches them here.
cargo fetch --locked || skip "crates could not be fetched"
# The mounts are in a name space of their own, and end with it.
exec unshare --mount sh -euc '
    root=$1 && shift
    mount --bind "$PWD" "$root/src"
    mount --bind "${CARGO_HOME:-$HOME/.cargo}" "$root/cargo"
    mount --bind /proc "$root/proc"
    mount --bind /dev "$root/dev"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root CARGO_HOME=/cargo \
        CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true /src/tests/aarch64.sh "$@"
' sh "$root" "$@"
