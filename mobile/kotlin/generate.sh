#!/bin/sh
# Builds the Rust library for this machine and generates the Kotlin bindings (package dev.owlet.ffi) from it into
# target/kotlin/generated. They are not committed: their names and types are those of the library they belong to.
set -eu
cd "$(dirname "$0")/../.."
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
debug=${CARGO_TARGET_DIR:-target}/debug

# In two calls: in one, the generator's features of UniFFI would go into the library.
cargo build --locked -p owlet-bindings
cargo build --locked -p owlet-bindgen
case "$(uname -s)" in
Darwin) library=$debug/libowlet_bindings.dylib ;;
*) library=$debug/libowlet_bindings.so ;;
esac
rm -rf target/kotlin/generated
"$debug/owlet-bindgen" generate --language kotlin --no-format --out-dir target/kotlin/generated "$library"
