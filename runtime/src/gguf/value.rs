//! Metadata values.

macro_rules! value_types {
    ($($variant:ident($type:ty) = $id:literal, $name:literal;)*) => {
        /// One metadata value.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("A `", $name, "`.")] $variant($type),)*
            /// Values of one type; GGUF as llama.cpp reads it has no arrays of arrays.
            Array(Array),
        }

        /// A metadata array: all elements have the same type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(Vec<$type>),)*
        }

        impl Value {
            /// The type's name for messages: `u32`, `string`, `array of f32`.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Array(array) => array.type_name(),
                }
            }

            /// GGUF's number of the type.
            pub(super) fn type_id(&self) -> u32 {
                match self {
                    $(Self::$variant(_) => $id,)*
                    Self::Array(_) => ARRAY_ID,
                }
            }
        }

        impl Array {
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }

            /// Whether there are no elements.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => concat!("array of ", $name),)* }
            }

            /// GGUF's number of the elements' type.
            pub(super) fn element_id(&self) -> u32 {
                match self { $(Self::$variant(_) => $id,)* }
            }
        }

        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }

        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Self {
                Self::Array(Array::$variant(values))
            }
        })*
    };
}

/// GGUF's number of arrays.
pub(super) const ARRAY_ID: u32 = 9;

value_types! {
    U8(u8) = 0, "u8";
    I8(i8) = 1, "i8";
    U16(u16) = 2, "u16";
    I16(i16) = 3, "i16";
    U32(u32) = 4, "u32";
    I32(i32) = 5, "i32";
    F32(f32) = 6, "f32";
    Bool(bool) = 7, "bool";
    String(String) = 8, "string";
    U64(u64) = 10, "u64";
    I64(i64) = 11, "i64";
    F64(f64) = 12, "f64";
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl Value {
    /// The value of any integer type that fits `i128`; files differ in how wide they store the same key.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }

    /// The value of a `f32` or `f64`.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The value of a `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The elements of an array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(Array::String(values)) => Some(values),
            _ => None,
        }
    }

    /// The elements of an array of `i32` or `u32`, where they fit `i32`.
    pub fn as_i32s(&self) -> Option<Vec<i32>> {
        match self {
            Self::Array(Array::I32(values)) => Some(values.clone()),
            Self::Array(Array::U32(values)) => values.iter().map(|&value| value.try_into().ok()).collect(),
            _ => None,
        }
    }

    /// The elements of an array of `f32`.
    pub fn as_f32s(&self) -> Option<&[f32]> {
        match self {
            Self::Array(Array::F32(values)) => Some(values),
            _ => None,
        }
    }
}
