//! Names the shared library as programs that are linked with it will look for it (before 1.0, minor versions break), and
//! keeps what is not ours out of its symbols.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let part = |name: &str| std::env::var(format!("CARGO_PKG_VERSION_{name}")).unwrap_or_default();
    let abi = format!("{}.{}", part("MAJOR"), part("MINOR"));
    let argument = |argument: &str| println!("cargo::rustc-cdylib-link-arg=-Wl,{argument}");
    let os = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    match os.as_str() {
        // Android loads libraries from packages, which know no versions.
        "android" => argument("-soname,libowlet.so"),
        "linux" => argument(&format!("-soname,libowlet.so.{abi}")),
        "macos" | "ios" => argument(&format!("-install_name,@rpath/libowlet.{abi}.dylib")),
        _ => {}
    }
    // Crates that we use have C functions of their own (llguidance's `llg_*`), which are not for our callers.
    match os.as_str() {
        "android" | "linux" => argument("--exclude-libs,ALL"),
        "macos" | "ios" => argument("-unexported_symbol,_llg_*"),
        _ => {}
    }
}
