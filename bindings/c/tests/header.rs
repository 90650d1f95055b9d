//! `bindings/include/owlet.h` is what the sources say. `OWLET_WRITE_HEADER=1` writes it, `make header` for short.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use owlet_runtime::error_kinds;

#[test]
fn the_header_is_that_of_the_sources() {
    let made = header();
    if std::env::var_os("OWLET_WRITE_HEADER").is_some() {
        fs::write(path(), &made).expect("a writable folder");
    }
    let kept = fs::read_to_string(path()).expect("bindings/include/owlet.h: run `make header`");
    let differs = made.lines().zip(kept.lines()).position(|(made, kept)| made != kept);
    let line = differs.or((made.lines().count() != kept.lines().count()).then_some(0)).map(|line| line + 1);
    assert_eq!(line, None, "owlet.h differs from the sources in this line: run `make header`");
}

#[test]
fn every_function_says_what_it_does() {
    let header = fs::read_to_string(path()).expect("bindings/include/owlet.h");
    let lines: Vec<_> = header.lines().collect();
    let is_start =
        |line: &str| line.contains(" owlet_") && line.contains('(') && !line.starts_with([' ', '/', '#', '*']);
    let mut n_functions = 0;
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| is_start(line) && !line.starts_with("typedef")) {
        if line.starts_with("static inline") {
            continue;
        }
        n_functions += 1;
        let before = lines[..index].iter().rposition(|line| !line.starts_with("OWLET_NODISCARD"));
        let documented = before.is_some_and(|before| lines[before].trim_end().ends_with("*/"));
        assert!(documented, "line {}: a function without a word: {line}", index + 1);
    }
    assert!(n_functions > 50, "found {n_functions} functions");
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/owlet.h")
}

fn header() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("cbindgen.toml");
    config.header = Some(include_str!("header/preamble.h").trim_end().to_owned());
    config.after_includes = Some(prelude());
    let mut text = Vec::new();
    let bindings = cbindgen::Builder::new().with_config(config).with_crate(folder).generate();
    bindings.expect("sources that cbindgen reads").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    // Behind the last function, before the end of `extern "C"`.
    let end = text.rfind("#ifdef __cplusplus\n}").expect("C++ is thought of");
    format!("{}{}{}", &text[..end], initialisers(&text), &text[end..])
}

/// Includes, macros, version and status codes.
fn prelude() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let [major, minor, patch] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    let mut text = format!(
        r#"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The version of this header; owlet_version() tells that of the library. */
#define OWLET_VERSION_MAJOR {major}
#define OWLET_VERSION_MINOR {minor}
#define OWLET_VERSION_PATCH {patch}
#define OWLET_VERSION "{version}"
#define OWLET_VERSION_NUMBER (OWLET_VERSION_MAJOR * 10000 + OWLET_VERSION_MINOR * 100 + OWLET_VERSION_PATCH)

/* A result that must not be dropped. */
#if defined(__cplusplus) && __cplusplus >= 201703L
#define OWLET_NODISCARD [[nodiscard]]
#elif defined(__GNUC__) || defined(__clang__)
#define OWLET_NODISCARD __attribute__((warn_unused_result))
#elif defined(_MSC_VER)
#define OWLET_NODISCARD _Check_return_
#else
#define OWLET_NODISCARD
#endif

/** What a call came to. Numbers never change; later versions may have more of them. */
enum owlet_status
#ifdef __cplusplus
    : uint32_t
#endif
{{
    /** It did what it should. */
    OWLET_STATUS_OK = 0,
"#
    );
    macro_rules! statuses {
        ($($(#[doc = $doc:literal])* $kind:ident, $name:literal, $status:literal, $exit_code:literal;)*) => {$({
            let doc = [$($doc),*].join("\n     *").replace("[`", "`").replace("`]", "`");
            let _ = writeln!(text, "    /**{doc} */\n    OWLET_STATUS_{} = {},", $name.to_uppercase(), $status);
        })*};
    }
    error_kinds!(statuses);
    text.push_str("};\n#ifndef __cplusplus\ntypedef uint32_t owlet_status;\n#endif");
    text
}

/// A function for every struct that callers make, which sets it up.
fn initialisers(text: &str) -> String {
    let mut functions = String::new();
    for (start, _) in text.match_indices("typedef struct {") {
        let body = &text[start..];
        let Some(end) = body.find("\n} ") else { continue };
        let name = body[end + 3..].split(';').next().unwrap_or_default();
        // Those that the library makes say so.
        if body[..end].contains("size_t struct_size;") && body[..end].contains("set by the caller") {
            let _ = write!(
                functions,
                "/** A struct of nothing but defaults. */\nstatic inline {name} {name}_init(void)\n{{\n    {name} value;\n    \
                 memset(&value, 0, sizeof(value));\n    value.struct_size = sizeof(value);\n    return value;\n}}\n\n"
            );
        }
    }
    functions
}
