//! `owlet-bindgen generate --language swift|kotlin|python --out-dir DIR LIBRARY`: UniFFI's own generator, in the version that built the
//! library. It reads the metadata of an unstripped library and must run inside of this workspace.

fn main() {
    uniffi::uniffi_bindgen_main();
}
