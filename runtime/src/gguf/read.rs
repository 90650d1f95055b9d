//! Reading: a memory map, a header that is checked as a whole, and typed getters.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgmlType, MAGIC, MAX_DIMS, MAX_NAME_BYTES, TensorInfo, VERSION, Value,
    hash::tree_hash, value::ARRAY_ID,
};
use crate::{Error, ErrorKind, MappedFile, Result, cancel::CancelToken};

/// An open, validated GGUF file. Tensor data is read from the map when it is asked for.
pub struct GgufFile {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    keys: HashMap<String, usize>,
    names: HashMap<String, usize>,
    hash: OnceLock<String>,
}

enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

/// What precedes the tensor data.
struct Header {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    alignment: u64,
    /// Where the data section starts in the file.
    data_start: u64,
}

impl GgufFile {
    /// Maps and validates the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` for anything that is not GGUF or contradicts itself or the length of the file;
    /// `Unsupported` for another version or a tensor type that ggml does not know.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path.to_owned(), Bytes::Mapped(MappedFile::open(path)?))
    }

    /// Validates a file that is in memory; its [`path`](Self::path) is empty.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(PathBuf::new(), Bytes::Owned(bytes))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let header = parse(bytes.as_slice()).map_err(|error| match path.as_os_str().is_empty() {
            true => error,
            false => error.at(path.display()),
        })?;
        let keys = header.metadata.iter().enumerate().map(|(index, (key, _))| (key.clone(), index)).collect();
        let names = header.tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Self { path, bytes, header, keys, names, hash: OnceLock::new() })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// The bytes before the tensor data: all metadata and tensor descriptions.
    pub fn header_bytes(&self) -> &[u8] {
        let bytes = self.bytes.as_slice();
        &bytes[..bytes.len().min(self.header.data_start as usize)]
    }

    /// A hash of every byte of the file, in hexadecimal (SHA-256 over the SHA-256 of pieces). It is computed when it is first
    /// asked for, on all cores, and kept; the file is read, not mapped, so its pages do not count as memory of this process.
    ///
    /// # Errors
    /// `Io`.
    pub fn content_hash(&self) -> Result<&str> {
        self.content_hash_until(&CancelToken::new())
    }

    /// As [`GgufFile::content_hash`], until `cancel` is cancelled: looked at every 4 MiB.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    pub fn content_hash_until(&self, cancel: &CancelToken) -> Result<&str> {
        if let Some(hash) = self.hash.get() {
            return Ok(hash);
        }
        let read = |offset: u64, buffer: &mut [u8]| match &self.bytes {
            _ if cancel.is_cancelled() => Err(io::Error::other("cancelled")),
            Bytes::Mapped(file) => file.read_exact_at(offset, buffer),
            Bytes::Owned(bytes) => {
                buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
                Ok(())
            }
        };
        let hash = tree_hash(self.n_bytes(), &read);
        cancel.check()?;
        let hash = hash.map_err(|source| Error::io("cannot read file", &self.path, source))?;
        Ok(self.hash.get_or_init(|| hash))
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// All keys and values in file order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.header.metadata
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&index| &self.header.metadata[index].1)
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|&index| &self.header.tensors[index])
    }

    /// The tensor called `name`, which must have `shape` (ggml order; trailing dimensions of 1 do not count).
    ///
    /// # Errors
    /// `InvalidFile` when it is missing, `Mismatch` when its shape is another one.
    pub fn require(&self, name: &str, shape: &[u64]) -> Result<&TensorInfo> {
        let tensor = self
            .tensor(name)
            .ok_or_else(|| Error::new(ErrorKind::InvalidFile, "missing tensor").at(name).at(self.path.display()))?;
        if significant(&tensor.shape) != significant(shape) {
            let error = Error::new(ErrorKind::Mismatch, "wrong tensor shape").at(name).at(self.path.display());
            return Err(error.got(format!("{:?}", tensor.shape)).needed(format!("{shape:?}")));
        }
        Ok(tensor)
    }

    /// The data of `tensor`, which must come from this file: `n_bytes` bytes. In mapped files the first byte is aligned
    /// to at least 8.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let start = (self.header.data_start + tensor.offset) as usize;
        &self.bytes.as_slice()[start..start + tensor.n_bytes as usize]
    }

    /// The range of the file that holds the data of `tensor`.
    pub fn data_range(&self, tensor: &TensorInfo) -> Range<u64> {
        let start = self.header.data_start + tensor.offset;
        start..start + tensor.n_bytes
    }

    /// The value of `key` as `u32`; any integer type that fits is taken. As all plain getters: `InvalidFile` when the
    /// key is missing or its value is of another type.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key).and_then(|value| self.present(key, value))
    }

    /// The value of `key` as `f32`.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.opt_f32(key).and_then(|value| self.present(key, value))
    }

    /// The value of `key` as `bool`.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.opt_bool(key).and_then(|value| self.present(key, value))
    }

    /// The value of `key` as a string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.opt_str(key).and_then(|value| self.present(key, value))
    }

    /// The value of `key` as an array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        let value = self.typed(key, "array of string", Value::as_strings);
        value.and_then(|value| self.present(key, value))
    }

    /// As [`GgufFile::u32`], `None` when the key is missing.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "u32", |value| value.as_integer()?.try_into().ok())
    }

    /// As [`GgufFile::f32`], `None` when the key is missing.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "f32", Value::as_f32)
    }

    /// As [`GgufFile::bool`], `None` when the key is missing.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "bool", Value::as_bool)
    }

    /// As [`GgufFile::str`], `None` when the key is missing.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "string", Value::as_str)
    }

    /// The value of `key` as an array of `i32`, `None` when the key is missing.
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.typed(key, "array of i32", Value::as_i32s)
    }

    /// Checks that every tensor's data starts at a multiple of 32 bytes of the file, whatever alignment the file names:
    /// ggml ends the process on mapped memory that does not.
    pub(crate) fn check_alignment(&self) -> Result<()> {
        let start = |tensor: &TensorInfo| self.data_range(tensor).start;
        match self.tensors().iter().find(|tensor| !start(tensor).is_multiple_of(DEFAULT_ALIGNMENT)) {
            Some(tensor) => {
                let error = Error::new(ErrorKind::Unsupported, "tensor data is not aligned").at(&tensor.name);
                let needed = format!("a multiple of {DEFAULT_ALIGNMENT} (general.alignment)");
                Err(error.got(format!("byte {}", start(tensor))).needed(needed))
            }
            None => Ok(()),
        }
    }

    /// Checks that the value of `key`, where the file has it, is stored as exactly `needed` ([`Value::type_name`]).
    /// For keys that C++ reads after us with getters that end the process on any other type.
    pub(crate) fn demand_type(&self, key: &str, needed: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if value.type_name() != needed => Err(self.wrong_type(key, value, needed)),
            _ => Ok(()),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        needed: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.wrong_type(key, value, needed))
    }

    fn wrong_type(&self, key: &str, value: &Value, needed: &str) -> Error {
        let got = match value.as_integer() {
            Some(number) => format!("{} {number}", value.type_name()),
            None => value.type_name().to_owned(),
        };
        Error::new(ErrorKind::InvalidFile, "wrong metadata").at(key).at(self.path.display()).got(got).needed(needed)
    }

    fn present<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::new(ErrorKind::InvalidFile, "missing metadata").at(key).at(self.path.display()))
    }
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, tensors) = (self.header.metadata.len(), self.header.tensors.len());
        write!(f, "GgufFile({}, {keys} keys, {tensors} tensors)", self.path.display())
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

fn significant(shape: &[u64]) -> &[u64] {
    let n = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
    &shape[..n]
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidFile, what)
}

fn parse(bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor { bytes, position: 0 };
    if bytes.get(..MAGIC.len()) != Some(&MAGIC) {
        return Err(invalid("not a GGUF file").needed("the magic bytes GGUF"));
    }
    cursor.position = MAGIC.len();
    let version = cursor.u32("version")?;
    if !(2..=VERSION).contains(&version) {
        return Err(Error::new(ErrorKind::Unsupported, "GGUF version").got(version).needed(format!("2 or {VERSION}")));
    }
    // Smallest encodings: a tensor is name length + n_dims + one dimension + type + offset, a pair is key length + type + one byte.
    let n_tensors = cursor.count("tensor count", 8 + 4 + 8 + 4 + 8)?;
    let n_metadata = cursor.count("metadata count", 8 + 4 + 1)?;

    let metadata = read_metadata(&mut cursor, n_metadata)?;
    let alignment = match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some((_, Value::U32(value))) if value.is_power_of_two() && *value >= 8 => u64::from(*value),
        Some((_, Value::U32(value))) => {
            return Err(invalid("bad alignment").got(value).needed("a power of two, at least 8"));
        }
        Some((_, other)) => return Err(invalid("bad alignment").got(other.type_name()).needed("u32")),
    };
    let mut tensors = Vec::new();
    for _ in 0..n_tensors {
        tensors.push(read_tensor(&mut cursor, alignment)?);
    }
    let data_start = (cursor.position as u64).next_multiple_of(alignment);
    check_tensors(&tensors, data_start, bytes.len() as u64)?;
    Ok(Header { metadata, tensors, alignment, data_start })
}

fn read_metadata(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<(String, Value)>> {
    let mut metadata = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n {
        let key = cursor.string("metadata key")?;
        if key.is_empty() || key.contains('\0') {
            return Err(invalid("bad metadata key").got(format!("{key:?}")));
        }
        if !seen.insert(key.clone()) {
            return Err(invalid("duplicate metadata key").at(key));
        }
        let value = cursor.value().map_err(|error| error.at(&key))?;
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn read_tensor(cursor: &mut Cursor<'_>, alignment: u64) -> Result<TensorInfo> {
    let name = cursor.string("tensor name")?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
        return Err(invalid("bad tensor name").got(format!("{name:?}")).needed(format!("1 to {MAX_NAME_BYTES} bytes")));
    }
    let n_dims = cursor.u32("dimensions")?;
    if !(1..=MAX_DIMS as u32).contains(&n_dims) {
        return Err(invalid("bad tensor shape").at(&name).got(format!("{n_dims} dimensions")).needed("1 to 4"));
    }
    let shape = (0..n_dims).map(|_| cursor.u64("shape")).collect::<Result<Vec<_>>>()?;
    let id = cursor.u32("tensor type")?;
    let dtype = GgmlType::from_id(id).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "unknown tensor type").at(&name).got(id).needed("a type of ggml 0.26")
    })?;
    let offset = cursor.u64("tensor offset")?;
    if !offset.is_multiple_of(alignment) {
        return Err(invalid("misaligned tensor").at(&name).got(offset).needed(format!("a multiple of {alignment}")));
    }
    let n_bytes = dtype.tensor_bytes(&shape).map_err(|error| error.at(&name))?;
    Ok(TensorInfo { name, shape, dtype, offset, n_bytes })
}

/// Names are unique, all data lies inside the file, no two tensors share bytes.
fn check_tensors(tensors: &[TensorInfo], data_start: u64, file_bytes: u64) -> Result<()> {
    let mut seen = HashSet::new();
    for tensor in tensors {
        if !seen.insert(tensor.name.as_str()) {
            return Err(invalid("duplicate tensor name").at(&tensor.name));
        }
        let end = data_start.checked_add(tensor.offset).and_then(|start| start.checked_add(tensor.n_bytes));
        if end.is_none_or(|end| end > file_bytes) {
            let error = invalid("tensor data outside the file").at(&tensor.name).got(format!("{file_bytes} bytes"));
            return Err(match end {
                Some(end) => error.needed(format!("{end} bytes")),
                None => error,
            });
        }
    }
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].n_bytes > pair[1].offset {
            return Err(invalid("overlapping tensors").at(&pair[1].name).at(&pair[0].name));
        }
    }
    Ok(())
}

/// Little-endian reads that end at the end of the file. Nothing is allocated before the bytes for it are known to exist.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        if n > self.remaining() {
            let error = invalid("the file ends too early").at(what).at(format!("byte {}", self.position));
            return Err(error.got(format!("{} bytes", self.remaining())).needed(format!("{n} bytes")));
        }
        let taken = &self.bytes[self.position..self.position + n as usize];
        self.position += n as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take returns the length asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `least_bytes` each.
    fn count(&mut self, what: &str, least_bytes: u64) -> Result<u64> {
        let n = self.u64(what)?;
        if n > self.remaining() / least_bytes {
            let error = invalid("a count exceeds the file").at(what).got(n);
            return Err(error.needed(format!("at most {}", self.remaining() / least_bytes)));
        }
        Ok(n)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let n = self.u64(what)?;
        let bytes = self.take(n, what)?;
        let text = std::str::from_utf8(bytes).map_err(|source| invalid("not UTF-8").at(what).source(source))?;
        Ok(text.to_owned())
    }

    fn bool(&mut self) -> Result<bool> {
        match self.array::<1>("bool")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(invalid("bad bool").got(other).needed("0 or 1")),
        }
    }

    fn value(&mut self) -> Result<Value> {
        Ok(match self.u32("value type")? {
            0 => Value::U8(u8::from_le_bytes(self.array("value")?)),
            1 => Value::I8(i8::from_le_bytes(self.array("value")?)),
            2 => Value::U16(u16::from_le_bytes(self.array("value")?)),
            3 => Value::I16(i16::from_le_bytes(self.array("value")?)),
            4 => Value::U32(u32::from_le_bytes(self.array("value")?)),
            5 => Value::I32(i32::from_le_bytes(self.array("value")?)),
            6 => Value::F32(f32::from_le_bytes(self.array("value")?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string("value")?),
            ARRAY_ID => Value::Array(self.elements()?),
            10 => Value::U64(u64::from_le_bytes(self.array("value")?)),
            11 => Value::I64(i64::from_le_bytes(self.array("value")?)),
            12 => Value::F64(f64::from_le_bytes(self.array("value")?)),
            other => return Err(invalid("unknown metadata type").got(other)),
        })
    }

    fn elements(&mut self) -> Result<Array> {
        Ok(match self.u32("array type")? {
            0 => Array::U8(self.numbers(u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(f32::from_le_bytes)?),
            7 => {
                let n = self.count("array length", 1)?;
                Array::Bool((0..n).map(|_| self.bool()).collect::<Result<_>>()?)
            }
            8 => {
                let n = self.count("array length", 8)?;
                Array::String((0..n).map(|_| self.string("array element")).collect::<Result<_>>()?)
            }
            ARRAY_ID => return Err(invalid("nested array").needed("an array of plain values")),
            10 => Array::U64(self.numbers(u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(f64::from_le_bytes)?),
            other => return Err(invalid("unknown metadata type").got(other)),
        })
    }

    fn numbers<T, const N: usize>(&mut self, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let n = self.count("array length", N as u64)?;
        let bytes = self.take(n * N as u64, "array")?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| convert(chunk)).collect())
    }
}
