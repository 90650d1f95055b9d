//! Writing: metadata and tensor descriptions first, then the tensors' data in the same order, in pieces of any size.

use std::{
    collections::HashSet,
    io::{BufWriter, Write},
    path::Path,
};

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgmlType, MAGIC, MAX_NAME_BYTES, TensorInfo, VERSION, Value,
    value::ARRAY_ID,
};
use crate::{AtomicFile, Error, ErrorKind, Result};

/// Collects what a file will contain; [`GgufWriter::create`] or [`GgufWriter::start`] then takes the data.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
    data_bytes: u64,
}

impl GgufWriter {
    /// An empty file. Its tensor data will be aligned to 32 bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`; a value that it has already is replaced in place.
    ///
    /// # Panics
    /// When `key` is empty, contains a NUL, or is `general.alignment`, which the writer owns: keys are literals.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        assert!(!key.is_empty() && !key.contains('\0') && key != ALIGNMENT_KEY, "bad metadata key {key:?}");
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Declares the next tensor: `shape` in ggml order.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is taken, empty or longer than 63 bytes; `InvalidFile` for a shape that
    /// [`GgmlType::tensor_bytes`] refuses.
    pub fn declare(&mut self, name: &str, shape: &[u64], dtype: GgmlType) -> Result<()> {
        let refused = |needed: &str| {
            Error::new(ErrorKind::InvalidInput, "bad tensor name").got(format!("{name:?}")).needed(needed)
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            return Err(refused("1 to 63 bytes"));
        }
        let n_bytes = dtype.tensor_bytes(shape).map_err(|error| error.at(name))?;
        let offset = self.data_bytes;
        let end = offset.checked_add(n_bytes).and_then(|end| end.checked_next_multiple_of(DEFAULT_ALIGNMENT));
        let end = end.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "file too large").at(name))?;
        if !self.names.insert(name.to_owned()) {
            return Err(refused("a name that is not taken"));
        }
        self.tensors.push(TensorInfo { name: name.to_owned(), shape: shape.to_vec(), dtype, offset, n_bytes });
        self.data_bytes = end;
        Ok(())
    }

    /// The tensors declared so far, in order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Length that the whole file will have, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.header().len() as u64 + self.data_bytes
    }

    /// Writes the header beside `path`; the file gets its name by [`GgufStream::commit`].
    ///
    /// # Errors
    /// As [`AtomicFile::create`], and `Io`.
    pub fn create(self, path: &Path) -> Result<GgufStream<BufWriter<AtomicFile>>> {
        self.start(BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?))
            .map_err(|error| error.at(path.display()))
    }

    /// Writes the header to `output`, which may be a `Vec<u8>`.
    ///
    /// # Errors
    /// `Io`.
    pub fn start<W: Write>(self, mut output: W) -> Result<GgufStream<W>> {
        output.write_all(&self.header()).map_err(write_failed)?;
        Ok(GgufStream { output, tensors: self.tensors, next: 0, missing: 0 })
    }

    fn header(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            put_value(&mut out, value);
        }
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            out.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(tensor.dtype.id().to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
        out
    }
}

/// A file whose header is written and whose data is being written.
#[derive(Debug)]
pub struct GgufStream<W: Write> {
    output: W,
    tensors: Vec<TensorInfo>,
    /// Index of the tensor after the current one.
    next: usize,
    /// Bytes that the current tensor still lacks.
    missing: u64,
}

impl<W: Write> GgufStream<W> {
    /// Begins the data of `name`, which must be the next declared tensor.
    ///
    /// # Errors
    /// `Internal` when it is not, or when the one before is incomplete.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        self.check_complete()?;
        match self.tensors.get(self.next) {
            Some(tensor) if tensor.name == name => {
                self.missing = tensor.n_bytes;
                self.next += 1;
                Ok(())
            }
            other => {
                let needed = other.map_or("no further tensor", |tensor| &tensor.name);
                Err(Error::new(ErrorKind::Internal, "tensor data out of order").got(name).needed(needed))
            }
        }
    }

    /// Appends to the current tensor.
    ///
    /// # Errors
    /// `Io`; `Internal` when there are more bytes than declared.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let n = bytes.len() as u64;
        if n > self.missing {
            let error = Error::new(ErrorKind::Internal, "too much tensor data").at(self.current());
            return Err(error.got(format!("{n} bytes")).needed(format!("{} bytes", self.missing)));
        }
        self.output.write_all(bytes).map_err(write_failed)?;
        self.missing -= n;
        if self.missing == 0 && n > 0 {
            let n_bytes = self.tensors[self.next - 1].n_bytes;
            let padding = (n_bytes.next_multiple_of(DEFAULT_ALIGNMENT) - n_bytes) as usize;
            self.output.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding]).map_err(write_failed)?;
        }
        Ok(())
    }

    /// [`begin`](Self::begin) and [`write`](Self::write) for data that is at hand as a whole.
    ///
    /// # Errors
    /// As those.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.begin(name)?;
        self.write(bytes)
    }

    /// Ends the file and gives the output back.
    ///
    /// # Errors
    /// `Io`; `Internal` when a tensor is missing.
    pub fn finish(mut self) -> Result<W> {
        self.check_complete()?;
        if let Some(tensor) = self.tensors.get(self.next) {
            return Err(Error::new(ErrorKind::Internal, "missing tensor data").at(&tensor.name));
        }
        self.output.flush().map_err(write_failed)?;
        Ok(self.output)
    }

    fn check_complete(&self) -> Result<()> {
        if self.missing == 0 {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Internal, "incomplete tensor data").at(self.current());
        Err(error.needed(format!("{} bytes more", self.missing)))
    }

    fn current(&self) -> &str {
        self.next.checked_sub(1).map_or("no tensor", |index| &self.tensors[index].name)
    }
}

impl GgufStream<BufWriter<AtomicFile>> {
    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// As [`GgufStream::finish`] and [`AtomicFile::commit`]; no file of that name is left or changed then.
    pub fn commit(self) -> Result<()> {
        let file = self.finish()?.into_inner().map_err(|error| write_failed(error.into_error()))?;
        file.commit()
    }
}

fn write_failed(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot write GGUF").source(source)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(value) => put_string(out, value),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(array) => {
            debug_assert_eq!(value.type_id(), ARRAY_ID);
            out.extend(array.element_id().to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            put_elements(out, array);
        }
    }
}

fn put_elements(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(values) => out.extend(values),
        Array::I8(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U16(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I16(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        Array::String(values) => values.iter().for_each(|value| put_string(out, value)),
        Array::U64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}
