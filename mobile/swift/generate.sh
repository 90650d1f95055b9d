#!/bin/sh
# Builds the Rust library for this machine and generates the Swift bindings from it: Sources/OwletFFI and Sources/OwletC.
# They are not committed: their names and types are those of the library they belong to, which goes to target/swift/lib.
set -eu
cd "$(dirname "$0")/../.."
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
built=${CARGO_TARGET_DIR:-target}/debug

# In two calls: in one, the generator's features of UniFFI would go into the library.
cargo build --locked -p owlet-bindings
cargo build --locked -p owlet-bindgen
case "$(uname -s)" in
Darwin) library=$built/libowlet_bindings.dylib ;;
*) library=$built/libowlet_bindings.so ;;
esac
out=target/swift/generated
rm -rf "$out"
"$built/owlet-bindgen" generate "$library" --language swift --no-format --out-dir "$out"

# copy FROM TO: leaves a file of the same content alone, and with it what was compiled from it.
copy() {
    mkdir -p "$(dirname "$2")"
    cmp -s "$1" "$2" || cp "$1" "$2"
}
copy "$library" "target/swift/lib/${library##*/}"
copy "$out/OwletFFI.swift" mobile/swift/Sources/OwletFFI/OwletFFI.swift
copy "$out/OwletC.h" mobile/swift/Sources/OwletC/OwletC.h
cat >"$out/module.modulemap" <<'MAP'
module OwletC {
    header "OwletC.h"
    link "owlet_bindings"
    export *
}
MAP
copy "$out/module.modulemap" mobile/swift/Sources/OwletC/module.modulemap
