#!/bin/sh
# Compiles the Kotlin library and its tests, and runs the tests against the Rust library of this machine and the embedded
# model. The last line tells how many passed and failed.
#
#     test.sh [--include-classname PATTERN ...]    arguments go to JUnit's console launcher
set -eu
cd "$(dirname "$0")"
here=$PWD
root=$(cd ../.. && pwd)
out=$root/target/kotlin
lib=$out/toolchain/node_modules/kotlin-compiler/lib
jars=${OWLET_JARS:-/usr/share/java}

./toolchain.sh
./generate.sh

coroutines=$lib/kotlinx-coroutines-core-jvm.jar
ffi=$out/owlet-ffi.jar
owlet=$out/owlet.jar
android=$out/owlet-android.jar
stubs=$out/stubs
tests=$out/tests.jar

classpath() {
    joined=$1
    shift
    for part in "$@"; do joined="$joined:$part"; done
    printf %s "$joined"
}
junit_for_tests=$(classpath "$jars/junit-jupiter-api.jar" "$jars/apiguardian-api.jar" "$jars/opentest4j.jar")
junit=$(classpath "$junit_for_tests" "$jars/junit-jupiter-engine.jar" "$jars/junit-jupiter-params.jar" \
    "$jars"/junit-platform-console.jar "$jars/junit-platform-reporting.jar" "$jars/junit-platform-launcher.jar" \
    "$jars/junit-platform-engine.jar" "$jars/junit-platform-commons.jar" "$jars/opentest4j-reporting-events.jar" \
    "$jars/opentest4j-reporting-schema.jar" "$jars/picocli.jar" "$jars/univocity-parsers.jar")

# compile JAR CLASSPATH OPTIONS SOURCE ...: unless the jar is of the same sources. A compiler start takes half a minute.
compile() {
    jar=$1
    path=$2
    options=$3
    shift 3
    key=$({ printf '%s\n' "$options"; cat "$here/toolchain/package-lock.json"; find "$@" -type f | sort | xargs cat
        for part in $(printf %s "$path" | tr : ' '); do [ ! -f "$part.key" ] || cat "$part.key"; done; } | sha256sum)
    [ -f "$jar" ] && [ "$(cat "$jar.key" 2>/dev/null)" = "$key" ] && return
    printf '%s\n' "kotlin: compiling $(basename "$jar")" >&2
    rm -f "$jar.key"
    # shellcheck disable=SC2086 # a list of options
    JAVA_OPTS=-Xmx1500m "$lib/../bin/kotlinc" -Werror -jvm-target 17 $options -cp "$path" -d "$jar" "$@"
    printf '%s' "$key" >"$jar.key"
}

compile "$ffi" "$(classpath "$jars/jna.jar" "$coroutines")" '' "$out/generated"
compile "$owlet" "$(classpath "$ffi" "$jars/jna.jar" "$coroutines")" -Xexplicit-api=strict src/main

# No registry at hand has an android.jar: the helpers for Android compile against stubs of what they name.
rm -rf "$stubs"
mkdir -p "$stubs"
find src/stubs -name '*.java' -exec javac -Xlint:all -Werror --release 17 -d "$stubs" {} +
compile "$android" "$(classpath "$owlet" "$ffi" "$stubs" "$jars/jna.jar" "$coroutines")" -Xexplicit-api=strict src/android/kotlin

# The quick start, as it stands in the README, is compiled with the tests, and run by one.
mkdir -p "$out/readme"
awk '/^```kotlin$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md >"$out/readme/QuickStart.kt"
compile "$tests" "$(classpath "$owlet" "$ffi" "$android" "$stubs" "$coroutines" "$jars/jna.jar" "$lib/kotlin-test.jar" \
    "$junit_for_tests")" "-Xfriend-paths=$owlet" src/test "$out/readme"

report=$out/report.txt
status=0
java -Djava.awt.headless=true -Djna.library.path="${CARGO_TARGET_DIR:-$root/target}/debug" -Dowlet.models="$root/models" \
    -cp "$(classpath "$tests" "$owlet" "$ffi" "$android" "$stubs" "$lib/kotlin-stdlib.jar" "$lib/kotlin-test.jar" "$coroutines" "$jars/jna.jar" "$junit")" \
    org.junit.platform.console.ConsoleLauncher --scan-classpath "$tests" --fail-if-no-tests --disable-banner --details=tree "$@" \
    >"$report" 2>&1 || status=$?
cat "$report"
count() { sed -n "s/^\[ *\([0-9]*\) tests $1 *\]$/\1/p" "$report"; }
passed=$(count successful)
failed=$(count failed)
printf '%s\n' "kotlin: ${passed:-0} passed, ${failed:-unknown} failed"
exit "$status"
