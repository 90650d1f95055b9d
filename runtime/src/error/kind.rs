//! The table of error kinds, which every surface of Owlet reads: its own enum, the names and status numbers of the
//! bindings, the exit codes of the command line.

/// Hands the table of error kinds to the macro `$with`, for crates that need an enum of their own from it: documentation,
/// variant, name, status, exit code.
///
/// | status | group |
/// |---|---|
/// | 0 | no error |
/// | 100.. | what the caller asked for |
/// | 200.. | files, the system, other machines |
/// | 300.. | the course of the work |
/// | 400.. | the host application |
/// | 500.. | Owlet itself |
///
/// Names and numbers are stable: new kinds take new numbers at the end of their group, and a retired one stays unused.
#[macro_export]
macro_rules! error_kinds {
    ($with:ident) => {
        $with! {
            /// An argument is out of its documented range.
            InvalidInput, "invalid_input", 100, 1;
            /// Well formed, but something Owlet does not handle: an architecture, a tensor type, an option's value.
            Unsupported, "unsupported", 101, 1;
            /// Two things that must fit do not: projector and model, adapter and model, checkpoint and data set.
            Mismatch, "mismatch", 102, 1;
            /// The tokens asked for do not fit the context.
            ContextOverflow, "context_overflow", 103, 1;
            /// Something exceeds a stated limit: pixels of an image, bytes of memory.
            Limit, "limit", 104, 1;
            /// A file or directory does not exist.
            NotFound, "not_found", 200, 1;
            /// The operating system refused a read or a write.
            Io, "io", 201, 1;
            /// A file is not what its format demands: truncated, lying lengths, not an image, malformed JSON.
            InvalidFile, "invalid_file", 202, 1;
            /// Somebody else is using it: another process writes to the same folder, another call works on the same object.
            Busy, "busy", 203, 1;
            /// A server was not reached, broke off, or refused.
            Network, "network", 204, 1;
            /// The caller cancelled the work.
            Cancelled, "cancelled", 300, 130;
            /// A training whose numbers left their range, again and again.
            Diverged, "diverged", 301, 1;
            /// An adapter that changes nothing: it was never trained, or its scale is too small to matter.
            NoEffect, "no_effect", 302, 1;
            /// A function of the host application failed: a reward, a listener.
            Callback, "callback", 400, 1;
            /// llama.cpp or ggml failed for a reason it did not tell.
            Backend, "backend", 500, 2;
            /// Owlet broke a rule of its own: please report it.
            Internal, "internal", 501, 2;
        }
    };
}

macro_rules! define {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $status:literal, $exit_code:literal;)*) => {
        /// What sort of thing went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds, by their status.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its name in lower case, as in logs and in the names of C constants.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Its number in the C interface; never 0, which is success there.
            pub const fn status(self) -> u32 {
                match self { $(Self::$kind => $status,)* }
            }

            /// What the command line ends with: 1 where something given to it is wrong, 2 where Owlet or llama.cpp failed,
            /// 130 where the work was stopped, as shells report it for Ctrl-C.
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$kind => $exit_code,)* }
            }
        }
    };
}
error_kinds!(define);

#[cfg(test)]
mod tests {
    use super::ErrorKind;

    #[test]
    fn names_spell_the_variants_and_numbers_rise() {
        let mut before = 0;
        for kind in ErrorKind::ALL {
            let mut spelled = String::new();
            for letter in format!("{kind:?}").chars() {
                if letter.is_ascii_uppercase() && !spelled.is_empty() {
                    spelled.push('_');
                }
                spelled.push(letter.to_ascii_lowercase());
            }
            assert_eq!(kind.name(), spelled);
            assert!(kind.status() > before, "{}: {} after {before}", kind.name(), kind.status());
            before = kind.status();
        }
    }

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        for kind in ErrorKind::ALL {
            let expected = match kind {
                ErrorKind::Cancelled => 130,
                kind if kind.status() >= 500 => 2,
                _ => 1,
            };
            assert_eq!(kind.exit_code(), expected, "{}", kind.name());
        }
    }
}
