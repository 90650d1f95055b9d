#!/bin/sh
# Installs what a build of Owlet needs and this machine lacks: cmake, a C++ compiler, libclang
# (bindgen reads llama.cpp's headers with it) and Rust; also shellcheck, valgrind and python-venv where the
# arguments name them. Knows apt, dnf and brew, and says what to install by hand elsewhere.
# Safe to run again: with everything in place it only looks.
set -eu

cd "$(dirname "$0")/.."
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf '%s\n' "setup: $*" >&2; }
die() {
    say "error: $1"
    shift
    for hint in "$@"; do say "hint: $hint"; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "installing needs root, and there is no sudo" "as root, run: $*"
    fi
}

# version_at_least HAVE WANT: compares dotted numbers.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]
}

# bindgen needs the library and clang's own headers (stddef.h); some packages bring only the first.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    for library in /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-*.so* /usr/lib/*-linux-gnu/libclang*.so* \
        /usr/lib64/libclang.so* /usr/lib/libclang.so* /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
        /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib; do
        [ -e "$library" ] || continue
        # The C++ library, which bindgen does not use.
        case "$library" in */libclang-cpp*) continue ;; esac
        case "$library" in *.dylib) return 0 ;; esac
        for header in /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib/clang/*/include/stddef.h \
            /usr/lib64/clang/*/include/stddef.h; do
            [ -e "$header" ] && return 0
        done
    done
    return 1
}

missing_tools() {
    have cmake || printf 'cmake '
    have c++ || have clang++ || printf 'compiler '
    have make || have ninja || printf 'make '
    have_libclang || printf 'libclang '
    rust_is_new_enough || have rustup || have curl || printf 'curl '
    for tool in "$@"; do
        case "$tool" in
        shellcheck | valgrind) have "$tool" || printf '%s ' "$tool" ;;
        python-venv) python3 -c 'import ensurepip, venv' 2>/dev/null || printf 'python-venv ' ;;
        *) die "unknown tool: $tool" "it can be shellcheck, valgrind or python-venv" ;;
        esac
    done
}

install_with_apt() {
    packages=''
    for tool in "$@"; do
        case "$tool" in
        compiler | make) packages="$packages build-essential" ;;
        libclang) packages="$packages libclang-dev" ;;
        curl) packages="$packages curl ca-certificates" ;;
        python-venv) packages="$packages python3 python3-venv" ;;
        *) packages="$packages $tool" ;;
        esac
    done
    as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

install_with_dnf() {
    packages=''
    for tool in "$@"; do
        case "$tool" in
        compiler) packages="$packages gcc gcc-c++" ;;
        libclang) packages="$packages clang clang-devel" ;;
        shellcheck) packages="$packages ShellCheck" ;;
        python-venv) packages="$packages python3" ;;
        *) packages="$packages $tool" ;;
        esac
    done
    # shellcheck disable=SC2086 # a list of package names
    as_root dnf install -y -q $packages
}

install_with_brew() {
    for tool in "$@"; do
        case "$tool" in
        compiler | make | libclang) die "the Xcode command line tools are missing" "run: xcode-select --install" ;;
        python-venv) brew install --quiet python ;;
        *) brew install --quiet "$tool" ;;
        esac
    done
}

install_tools() {
    say "installing: $*"
    if have apt-get; then
        install_with_apt "$@"
    elif have dnf; then
        install_with_dnf "$@"
    elif have brew; then
        install_with_brew "$@"
    else
        die "found none of apt, dnf and brew" "install by hand, then run this again: $*"
    fi
}

rust_is_new_enough() {
    have cargo || return 1
    version_at_least "$(cargo --version | cut -d ' ' -f 2 | cut -d - -f 1)" "$rust_version"
}

install_rust_by_rustup() {
    if have rustup; then
        say "installing Rust's stable toolchain with the rustup that is here"
        rustup toolchain install stable --profile minimal --component rustfmt,clippy
    else
        say "installing Rust by rustup into ${CARGO_HOME:-$HOME/.cargo}"
        installer=$(mktemp)
        # What https://sh.rustup.rs serves, from the host that the toolchain itself comes from.
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail --output "$installer" \
            https://static.rust-lang.org/rustup/rustup-init.sh &&
            sh "$installer" -y --quiet --no-modify-path --profile minimal --component rustfmt --component clippy
        status=$?
        rm -f "$installer"
        return "$status"
    fi
}

# Where rustup's servers cannot be reached, the distribution's Rust serves if it is new enough.
install_rust_by_distribution() {
    if have apt-get; then
        as_root apt-get update -qq
        candidate=$(apt-cache policy cargo | sed -n 's/^ *Candidate: *\([0-9.]*\).*/\1/p')
    elif have dnf; then
        candidate=$(dnf -q repoquery --latest-limit 1 --queryformat '%{version}' cargo 2>/dev/null || true)
    elif have brew; then
        candidate=$rust_version
    else
        return 1
    fi
    [ -n "${candidate:-}" ] && version_at_least "$candidate" "$rust_version" || return 1
    if have apt-get; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cargo rustc
    elif have dnf; then
        as_root dnf install -y -q cargo rust
    else
        brew install --quiet rust
    fi
}

rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

missing=$(missing_tools "$@")
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install_tools $missing
missing=$(missing_tools "$@")
[ -z "$missing" ] || die "still missing after installing: $missing" "install it by hand, then run this again"

if ! rust_is_new_enough; then
    install_rust_by_rustup || install_rust_by_distribution || true
    # The shell remembers where it found the old cargo.
    hash -r
    rust_is_new_enough ||
        die "Owlet needs Rust $rust_version or newer, found: $(cargo --version 2>/dev/null || echo none)" \
            "install it from https://rustup.rs, or make a newer toolchain the default: rustup default stable"
fi
