#!/bin/sh
# Installs what building and testing the Kotlin library needs and this machine lacks: a JDK, npm, JNA and JUnit 5 by apt,
# and the Kotlin compiler (npm package, its version and hash are in toolchain/package-lock.json) into target/kotlin.
# The compiler brings the standard library and kotlinx-coroutines. Safe to run again: with everything in place it only looks.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
kotlin=$here/../../target/kotlin/toolchain
# Where the jars of JNA and JUnit are; other systems than Debian and Ubuntu have to say.
jars=${OWLET_JARS:-/usr/share/java}

say() { printf '%s\n' "kotlin toolchain: $*" >&2; }
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

missing_packages() {
    { have java && have javac; } || printf 'default-jdk-headless '
    have npm || printf 'npm '
    # JNA's half in C: Debian's jar does not carry it.
    { [ -e "$jars/jna.jar" ] && ls /usr/lib/*/jni/libjnidispatch*.so >/dev/null 2>&1; } || printf 'libjna-java '
    { [ -e "$jars/junit-jupiter-engine.jar" ] && [ -e "$jars/junit-platform-console.jar" ]; } || printf 'junit5 '
}

install_packages() {
    have apt-get || die "missing, and there is no apt: $*" \
        "install a JDK from version 17 on, npm, JNA and JUnit 5, and name the folder of their jars in OWLET_JARS"
    say "installing: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if [ -z "${OWLET_JARS:-}" ]; then
    # shellcheck disable=SC2046 # a list of words
    set -- $(missing_packages)
    [ $# -eq 0 ] || install_packages "$@"
fi

java_version=$(java -version 2>&1 | sed -n 's/^[a-z]* version "\([0-9]*\).*/\1/p')
[ "${java_version:-0}" -ge 17 ] || die "Java 17 or newer is needed, found: ${java_version:-none}"

if ! cmp -s "$here/toolchain/package-lock.json" "$kotlin/installed.json"; then
    say "installing the Kotlin compiler into target/kotlin/toolchain"
    mkdir -p "$kotlin"
    cp "$here/toolchain/package.json" "$here/toolchain/package-lock.json" "$kotlin/"
    (cd -P "$kotlin" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
    # Written last: an interrupted installation begins again.
    cp "$here/toolchain/package-lock.json" "$kotlin/installed.json"
fi
