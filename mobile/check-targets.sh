#!/bin/sh
# cargo check of Owlet's crates for phones: Android and iOS on arm64. Finds code and crates that do not compile there.
# It links nothing and builds no C++: llama.cpp's own build is left out (its Rust declarations are those of this
# machine's build, which has the same sizes of types), so what the NDK or Xcode would say is not known from it.
#
# Debian and Ubuntu, x86-64. The compiler is Debian's rustc-web, the one that has the sources of the standard library with
# it; it is unpacked into target/cross and not installed. Takes 1.1 GB there and some minutes. Run so far: Android, owlet-runtime and
# owlet-adapters, without errors. Not yet: the bindings' crates, and iOS.
#
#     mobile/check-targets.sh [TARGET ...]      default: aarch64-linux-android aarch64-apple-ios
set -eu

cd "$(dirname "$0")/.."
cross=$PWD/target/cross
packages='owlet-runtime owlet-adapters'
for extra in bindings/host bindings bindings/c; do
    [ ! -e "$extra/Cargo.toml" ] || packages="$packages $(sed -n 's/^name = "\(.*\)"/\1/p' "$extra/Cargo.toml" | head -n 1)"
done

say() { printf '%s\n' "check-targets: $*" >&2; }

# A state of apt's own, so that the machine's is not touched.
install_rustc() {
    apt=$cross/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$cross/debs"
    : >"$apt/status"
    options="-o Dir::State::status=$apt/status -o Dir::State::lists=$apt/lists -o Dir::Cache::archives=$apt/archives
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User= -o Acquire::Languages=none"
    say "fetching Debian's rustc-web into target/cross"
    # shellcheck disable=SC2086 # a list of options
    apt-get $options -qq update
    # shellcheck disable=SC2086
    version=$(apt-cache $options show --no-all-versions rustc-web | sed -n 's/^Version: //p')
    # shellcheck disable=SC2086
    needs=$(apt-cache $options depends --recurse --important libstd-rust-web-dev |
        sed -n 's/^ *Depends: \(libstd-rust-web-[0-9].*\|libllvm[0-9.]*\)$/\1/p' | sort -u)
    # shellcheck disable=SC2086
    (cd "$cross/debs" && apt-get $options -qq download "rustc-web=$version" "libstd-rust-web-dev=$version" \
        "rust-web-src=$version" $needs)
    for package in "$cross"/debs/*.deb; do dpkg -x "$package" "$cross/root"; done
    rm -r "$cross/debs" "$apt"
    touch "$cross/installed"
}

[ -e "$cross/installed" ] || install_rustc

# What bindgen wrote for this machine stands in for what llama-cpp-sys-2's build script would write.
declarations=$(find -L "${CARGO_TARGET_DIR:-target}/debug/build" -path '*/llama-cpp-sys-2-*/out/bindings.rs' | head -n 1)
[ -n "$declarations" ] || { say "error: build the workspace first: cargo build"; exit 1; }

export LD_LIBRARY_PATH="$cross/root/usr/lib/x86_64-linux-gnu"
export RUSTC="$cross/root/usr/bin/rustc" RUSTDOC="$cross/root/usr/bin/rustdoc"
# The standard library is compiled from its sources, which stable compilers do with this alone.
export RUSTC_BOOTSTRAP=1
# Not the shim of rustup, which would choose the compiler itself.
cargo=$(rustup which cargo 2>/dev/null || command -v cargo)

[ $# -gt 0 ] || set -- aarch64-linux-android aarch64-apple-ios
for target in "$@"; do
    say "$target: $packages"
    # shellcheck disable=SC2046,SC2086 # a list of packages
    "$cargo" check --locked -Zbuild-std=std,panic_abort --target "$target" --target-dir "$cross/target" \
        --config "target.$target.llama.rustc-env.OUT_DIR='$(cd "${declarations%/*}" && pwd)'" \
        $(printf -- '-p %s ' $packages)
done
