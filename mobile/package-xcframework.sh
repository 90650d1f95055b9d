#!/bin/sh
# Builds mobile/swift/OwletC.xcframework: the Rust library for iPhones, their simulator and Macs with Apple's processors, and
# the generated Swift beside it. With it, mobile/swift is a Swift package that Xcode takes as it is.
# NOT RUN where Owlet is developed, which has no Xcode. mobile/check-targets.sh compiles the Rust half for iOS there, and
# `make test-swift` compiles and tests the Swift half on Linux.
#
# Needs macOS, Xcode 16 or newer, cmake, and Rust by rustup. OWLET_APPLE_TARGETS chooses among the targets.
set -eu

cd "$(dirname "$0")/.."
out=$PWD/target/xcframework
targets=${OWLET_APPLE_TARGETS:-aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-darwin}
# Those of Package.swift.
export IPHONEOS_DEPLOYMENT_TARGET=16.0 MACOSX_DEPLOYMENT_TARGET=13.0

die() {
    printf '%s\n' "package-xcframework: error: $1" >&2
    shift
    for hint in "$@"; do printf '%s\n' "package-xcframework: hint: $hint" >&2; done
    exit 1
}
[ "$(uname -s)" = Darwin ] || die "XCFrameworks are built on macOS only"
command -v xcodebuild >/dev/null 2>&1 || die "there is no xcodebuild" "install Xcode from the App Store, then run: xcode-select -s /Applications/Xcode.app"
command -v rustup >/dev/null 2>&1 || die "there is no rustup, which installs Rust's library for iOS" "install it from https://rustup.rs"

mobile/swift/generate.sh

# In a folder of the module's name, clang finds the module map beside those of other packages.
rm -rf "$out"
mkdir -p "$out/headers/OwletC"
cp mobile/swift/Sources/OwletC/OwletC.h "$out/headers/OwletC/"
# The framework brings the library, so the map shall not name it to the linker.
sed '/^ *link /d' mobile/swift/Sources/OwletC/module.modulemap >"$out/headers/OwletC/module.modulemap"

set -- -create-xcframework
for target in $targets; do
    rustup target add "$target"
    cargo rustc --locked --profile dist --target "$target" -p owlet-bindings --crate-type staticlib
    library=target/$target/dist/libowlet_bindings.a
    printf '%s\n' "$target: $(wc -c <"$library") bytes before the app is linked"
    set -- "$@" -library "$library" -headers "$out/headers"
done
xcodebuild "$@" -output "$out/OwletC.xcframework"
rm -rf mobile/swift/OwletC.xcframework
mv "$out/OwletC.xcframework" mobile/swift/
printf '%s\n' "mobile/swift is ready: add it to Xcode as a local package"
