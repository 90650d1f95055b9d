#!/bin/sh
# Builds Owlet for 64-bit ARM Linux and runs tests of it under qemu: the processor of phones, as far as an x86-64 machine can
# show it. Results are compared, times mean nothing.
#
# NOT RUN TO ITS END yet: the compiler was installed by it and began to build; llama.cpp was not built by it, no test was run.
#
# Debian 12 or newer, x86-64, as root or with sudo: installs the cross compiler and qemu-user. The Rust compiler is Debian's
# rustc-web, the one whose standard library for arm64 fits a compiler for x86-64; it is unpacked into target/aarch64, 1 GB, and
# not installed. The first build compiles llama.cpp again, a quarter of an hour on two idle cores.
#
#     mobile/test-aarch64.sh [ARGUMENT OF cargo test ...]
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$root"
# shellcheck source=mobile/debian.sh
. mobile/debian.sh

mkdir -p target/aarch64
folder=$(cd target/aarch64 && pwd -P)
target=aarch64-unknown-linux-gnu
sysroot=/usr/aarch64-linux-gnu

[ "$(uname -m)" = x86_64 ] || die "this is for x86-64 machines" "on others: make test"
for tool in apt-get dpkg-deb cmake; do have "$tool" || die "there is no $tool" "on Debian, run: make setup"; done

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

if ! have aarch64-linux-gnu-g++ || ! have qemu-aarch64 || [ ! -d "$sysroot/include" ]; then
    say "installing the cross compiler and qemu-user"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user >/dev/null
fi

# The newest compiler of the security archive, and the standard library for both processors in the same version.
install_rustc() {
    say "fetching Debian's rustc-web into target/aarch64"
    # shellcheck disable=SC1091 # of the machine
    suite=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    sources=''
    for archive in /debian:$suite /debian-security:$suite-security; do
        uri=$(debian_uri "${archive%%:*}")
        [ -n "$uri" ] || die "apt's sources name no archive that ends in ${archive%%:*}"
        sources="$sources
deb [arch=amd64,arm64 signed-by=$keyring] $uri ${archive##*:} main"
    done
    debian_fetch "$folder/apt" "$sources" -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 update
    export APT_CONFIG="$folder/apt/apt.conf"
    version=$(apt-cache show --no-all-versions rustc-web | sed -n 's/^Version: //p' | head -n 1)
    [ -n "$version" ] || die "$suite has no rustc-web"
    needs=$(apt-cache depends --recurse --important libstd-rust-web-dev |
        sed -n 's/^ *Depends: \(libstd-rust-web-[0-9].*\|libllvm[0-9.]*\)$/\1/p' | sort -u)
    # shellcheck disable=SC2086 # a list of package names
    (cd "$folder/apt/archives" && apt-get -qq -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 download \
        "rustc-web=$version" "libstd-rust-web-dev=$version" "libstd-rust-web-dev:arm64=$version" $needs)
    unset APT_CONFIG
    for package in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
    rm -r "$folder/apt"
    touch "$folder/installed"
}
[ -e "$folder/installed" ] || install_rustc

export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu"
export RUSTC="$folder/root/usr/bin/rustc" RUSTDOC="$folder/root/usr/bin/rustdoc"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="env -u LD_LIBRARY_PATH qemu-aarch64 -L $sysroot"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="-isystem $sysroot/include"
# Not the shim of rustup, which would choose the compiler itself.
cargo=$(rustup which cargo 2>/dev/null || command -v cargo)

[ $# -gt 0 ] || set -- --locked --no-fail-fast -p owlet-runtime -p owlet-quant -p owlet-adapters
exec "$cargo" test --target "$target" --target-dir "$folder/target" "$@"
