//! `owlet-bindgen-swift --swift-sources --headers --modulemap LIBRARY DIR`: the same for Swift, whose header and module map
//! have options of their own.

fn main() {
    uniffi::uniffi_bindgen_swift();
}
