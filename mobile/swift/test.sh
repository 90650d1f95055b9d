#!/bin/sh
# Compiles the Swift package and its tests and runs them against the Rust library of this machine and the embedded model; the
# program of README.md is compiled and run as well. The last line tells how many passed and failed.
#
#     mobile/swift/test.sh [ARGUMENT OF swift test ...]      for example: --filter SessionTests
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
cd "$root"

# First, since it may not be possible on this machine.
"$here/toolchain.sh" true
"$here/generate.sh"

mkdir -p target/swift
target=$(cd target && pwd -P)
out=$target/swift
swift() {
    verb=$1
    package=$2
    shift 2
    "$here/toolchain.sh" env OWLET_MODELS="$root/models" swift "$verb" --package-path "$package" \
        --scratch-path "$out/$(basename "$package")" -Xswiftc -warnings-as-errors "$@"
}
link="-Xlinker -L$out/lib -Xlinker -rpath -Xlinker $out/lib"
if [ "$(uname -s)" = Darwin ]; then
    link=''
    [ -d "$here/OwletC.xcframework" ] || {
        echo "test: error: on macOS the library comes in a framework; run mobile/package-xcframework.sh first" >&2
        exit 1
    }
fi

# The program as a reader of README.md would set it up.
quick=$out/quickstart
mkdir -p "$quick/Sources/QuickStart"
awk '/^```swift$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$here/README.md" >"$quick/main.swift"
cmp -s "$quick/main.swift" "$quick/Sources/QuickStart/main.swift" || cp "$quick/main.swift" "$quick/Sources/QuickStart/main.swift"
cat >"$quick/Package.swift" <<PACKAGE
// swift-tools-version: 6.0
import PackageDescription
let package = Package(
    name: "QuickStart", platforms: [.macOS(.v13)], dependencies: [.package(name: "Owlet", path: "$here")],
    targets: [.executableTarget(name: "QuickStart", dependencies: ["Owlet"])])
PACKAGE

status=0
report=$out/report.txt
# shellcheck disable=SC2086 # a list of options
swift build "$here" --build-tests $link || {
    echo "swift: 0 passed, unknown number failed: it does not compile"
    exit 1
}
# shellcheck disable=SC2086
swift test "$here" --skip-build --disable-xctest $link "$@" >"$report" 2>&1 || status=$?
cat "$report"
count() { grep -E "^$1 Test " "$report" | grep -E ' (passed|failed) after ' | grep -cv "^$1 Test run with " || true; }
passed=$(count ✔)
failed=$(count ✘)

# Unless only some tests were asked for.
if [ $# -eq 0 ]; then
    # shellcheck disable=SC2086
    if swift build "$quick" $link &&
        "$here/toolchain.sh" "$out/quickstart/debug/QuickStart" "$root/models/owlet-tiny-F16.gguf" \
            "$root/runtime/tests/pixels/pictures/baseline.jpg" "$(mktemp -d "$target/swift/quickstart-run.XXXXXX")"; then
        passed=$((passed + 1))
    else
        printf '%s\n' "✘ the program of README.md failed"
        failed=$((failed + 1))
        status=1
    fi
    rm -rf "$target"/swift/quickstart-run.*
fi
# A run that broke off has neither passed nor failed tests for its end.
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed="unknown number"
printf '%s\n' "swift: $passed passed, $failed failed"
exit "$status"
