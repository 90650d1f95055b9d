#!/bin/sh
# Builds the Android library: native code for arm64-v8a and x86_64 by the NDK, the bindings, and the AAR by Gradle.
# NOT RUN where Owlet is developed: neither the NDK nor Gradle's repositories can be had there. `mobile/check-targets.sh`
# compiles the Rust half for Android there, `make test-kotlin` compiles and tests the Kotlin half.
#
#     ANDROID_NDK=path/to/ndk ANDROID_HOME=path/to/sdk mobile/package-aar.sh
#
# Needs NDK r27 or newer, Gradle 8.13 or newer, and the Rust targets aarch64-linux-android and x86_64-linux-android.
# GGML_CPU_ARM_ARCH=armv8.2-a+dotprod compiles llama.cpp for newer phones only, and its quantized products are then faster.
set -eu

cd "$(dirname "$0")/.."
out=$PWD/target/kotlin
api=28

die() {
    printf '%s\n' "package-aar: error: $1" >&2
    shift
    for hint in "$@"; do printf '%s\n' "package-aar: hint: $hint" >&2; done
    exit 1
}
[ -n "${ANDROID_NDK:-}" ] || die "ANDROID_NDK is not set" "install the NDK with Android Studio or sdkmanager, and name its folder"
[ -n "${ANDROID_HOME:-}" ] || die "ANDROID_HOME is not set" "it is the folder of the Android SDK, for Gradle"
command -v gradle >/dev/null 2>&1 || die "there is no gradle" "install Gradle 8.13 or newer"
case "$(uname -s)" in
Darwin) host=darwin-x86_64 ;;
*) host=linux-x86_64 ;;
esac
llvm=$ANDROID_NDK/toolchains/llvm/prebuilt/$host/bin
[ -x "$llvm/llvm-readelf" ] || die "no LLVM in the NDK" "looked for $llvm/llvm-readelf"

# The library of this machine has the names and types that the bindings are generated from.
mobile/kotlin/generate.sh

export ANDROID_NDK ANDROID_API_LEVEL=$api
for pair in aarch64-linux-android:arm64-v8a x86_64-linux-android:x86_64; do
    target=${pair%%:*}
    abi=${pair##*:}
    upper=$(printf %s "$target" | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${upper}_LINKER=$llvm/$target$api-clang"
    # Pages of 16 KB; NDK r28 does so by itself.
    export "CARGO_TARGET_${upper}_RUSTFLAGS=-C link-arg=-Wl,-z,max-page-size=16384"
    cargo build --locked --profile dist --target "$target" -p owlet-bindings
    mkdir -p "$out/jniLibs/$abi"
    cp "target/$target/dist/libowlet_bindings.so" "$out/jniLibs/$abi/"
    "$llvm/llvm-readelf" -lW "$out/jniLibs/$abi/libowlet_bindings.so" | awk '$1 == "LOAD" && (length($NF) < 6 || $NF ~ /^0x[123]...$/) { bad = 1 } END { exit bad }' ||
        die "$abi: a segment is not aligned to 16 KB"
    printf '%s\n' "$abi: $(wc -c <"$out/jniLibs/$abi/libowlet_bindings.so") bytes"
done

gradle --project-dir mobile/kotlin assembleRelease
ls -l mobile/kotlin/build/outputs/aar/*.aar
