#!/bin/sh
# Builds the library and writes its Python module, with the library beside it, to target/python (or $1): `import owlet`.
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
out=${1:-target/python}
# In two calls: in one, the generator's features of UniFFI would go into the library.
cargo build --locked -p owlet-bindings
cargo build --locked -p owlet-bindgen
case $(uname) in
Darwin) library=$target/debug/libowlet_bindings.dylib ;;
*) library=$target/debug/libowlet_bindings.so ;;
esac
mkdir -p "$out"
"$target/debug/owlet-bindgen" generate --language python --no-format --out-dir "$out" "$library"
cp "$library" "$out"
