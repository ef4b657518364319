//! The values that GGUF metadata can hold.

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer type of the format (8 to 64 bits).
    Unsigned(u64),
    /// Any signed integer type of the format (8 to 64 bits).
    Signed(i64),
    /// A 32 or 64 bit float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Many values of one type.
    Array(Array),
}

/// An array of one type; arrays of arrays do not occur in model files and are refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Unsigned integers of any width.
    Unsigned(Vec<u64>),
    /// Signed integers of any width.
    Signed(Vec<i64>),
    /// Floats; 64-bit ones are rounded, since nothing in a model needs them.
    Float(Vec<f32>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Texts.
    String(Vec<String>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Unsigned(v) => v.len(),
            Array::Signed(v) => v.len(),
            Array::Float(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "a signed integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::String(_) => "a string",
            Value::Array(Array::Unsigned(_)) => "an array of unsigned integers",
            Value::Array(Array::Signed(_)) => "an array of signed integers",
            Value::Array(Array::Float(_)) => "an array of floats",
            Value::Array(Array::Bool(_)) => "an array of booleans",
            Value::Array(Array::String(_)) => "an array of strings",
        }
    }
}
