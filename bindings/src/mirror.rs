//! Enums of Owlet that have a twin for other languages.

/// Conversions between an enum of the bindings and the one that it mirrors, where both have the same variants.
#[macro_export]
macro_rules! mirror_enum {
    ($own:ident => $theirs:path { $($variant:ident),* }) => {
        impl From<$own> for $theirs {
            fn from(own: $own) -> Self {
                match own { $($own::$variant => Self::$variant,)* }
            }
        }
    };
}
