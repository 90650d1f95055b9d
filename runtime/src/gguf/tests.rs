//! Round trips of generated files, and one named case for every way in which a header can lie.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::ErrorKind;

/// Builds a file by hand, so that it can be wrong.
struct Raw(Vec<u8>);

impl Raw {
    fn new(n_tensors: u64, n_metadata: u64) -> Self {
        Self::with_version(3, n_tensors, n_metadata)
    }

    fn with_version(version: u32, n_tensors: u64, n_metadata: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_metadata)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, shape: &[u64], dtype: u32, offset: u64) -> Self {
        let start = self.string(name).u32(shape.len() as u32);
        shape.iter().fold(start, |raw, n| raw.u64(*n)).u32(dtype).u64(offset)
    }

    /// Pads to the data section and adds `n` bytes of data.
    fn data(mut self, n: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self.0
    }
}

#[test]
fn violations_are_refused_each_with_its_reason() {
    const F32: u32 = 0;
    let alignment = |kind: u32, value: u32| Raw::new(0, 1).string("general.alignment").u32(kind).u32(value).data(0);
    let one = |shape: &[u64], dtype| Raw::new(1, 0).tensor("a", shape, dtype, 0).data(64);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty file", vec![], "not a GGUF"),
        ("another magic", b"GGML\x03\0\0\0".to_vec(), "not a GGUF"),
        ("version 1", Raw::with_version(1, 0, 0).data(0), "version"),
        ("version 4", Raw::with_version(4, 0, 0).data(0), "version"),
        ("big-endian", Raw::with_version(3 << 24, 0, 0).data(0), "version"),
        ("2^63 tensors", Raw::new(1 << 63, 0).data(64), "count exceeds"),
        ("2^40 keys", Raw::new(0, 1 << 40).data(64), "count exceeds"),
        ("more tensors than described", Raw::new(2, 0).tensor("a", &[1], F32, 0).data(64), "tensor name"),
        ("key longer than the file", Raw::new(0, 1).u64(1 << 62).data(64), "ends too early"),
        ("empty key", Raw::new(0, 1).string("").u32(4).u32(1).data(0), "metadata key"),
        ("NUL in a key", Raw::new(0, 1).string("a\0b").u32(4).u32(1).data(0), "metadata key"),
        ("key that is not UTF-8", Raw::new(0, 1).u64(1).bytes(&[0xff]).u32(4).u32(1).data(0), "UTF-8"),
        ("same key twice", Raw::new(0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(1).data(0), "duplicate"),
        ("unknown value type", Raw::new(0, 1).string("k").u32(13).u64(0).data(0), "metadata type"),
        ("unknown array type", Raw::new(0, 1).string("k").u32(9).u32(13).u64(0).data(0), "metadata type"),
        ("nested array", Raw::new(0, 1).string("k").u32(9).u32(9).u64(1).u32(4).u64(0).data(0), "nested"),
        ("array longer than the file", Raw::new(0, 1).string("k").u32(9).u32(4).u64(1 << 60).data(0), "count exceeds"),
        ("strings longer than the file", Raw::new(0, 1).string("k").u32(9).u32(8).u64(9).data(0), "count exceeds"),
        ("bool of 2", Raw::new(0, 1).string("k").u32(7).bytes(&[2]).data(0), "bool"),
        ("alignment 0", alignment(4, 0), "alignment"),
        ("alignment 48", alignment(4, 48), "alignment"),
        ("alignment 4", alignment(4, 4), "alignment"),
        ("alignment of another type", alignment(5, 32), "alignment"),
        ("empty tensor name", Raw::new(1, 0).tensor("", &[1], F32, 0).data(64), "tensor name"),
        ("64 bytes of name", Raw::new(1, 0).tensor(&"n".repeat(64), &[1], F32, 0).data(64), "tensor name"),
        ("NUL in a name", Raw::new(1, 0).tensor("a\0", &[1], F32, 0).data(64), "tensor name"),
        (
            "same name twice",
            Raw::new(2, 0).tensor("a", &[1], F32, 0).tensor("a", &[1], F32, 32).data(64),
            "duplicate tensor",
        ),
        ("no dimension", one(&[], F32), "dimensions"),
        ("five dimensions", one(&[1; 5], F32), "dimensions"),
        ("dimension of 0", one(&[4, 0], F32), "dimension of 0"),
        ("2^64 elements", one(&[1 << 32, 1 << 32], F32), "2^63"),
        ("2^63 bytes", one(&[1 << 61], F32), "2^63"),
        ("half a block", one(&[16], 8), "multiple of 32"),
        ("removed type", one(&[32], 4), "tensor type"),
        ("future type", one(&[32], 99), "tensor type"),
        ("odd offset", Raw::new(1, 0).tensor("a", &[1], F32, 4).data(64), "misaligned"),
        ("data past the end", Raw::new(1, 0).tensor("a", &[17], F32, 0).data(64), "outside the file"),
        ("offset past the end", Raw::new(1, 0).tensor("a", &[1], F32, 1 << 40).data(64), "outside the file"),
        ("offset that overflows", Raw::new(1, 0).tensor("a", &[1], F32, u64::MAX - 31).data(64), "outside the file"),
        ("overlap", Raw::new(2, 0).tensor("a", &[9], F32, 0).tensor("b", &[1], F32, 32).data(64), "overlapping"),
    ];
    let mut failures = Vec::new();
    for (name, bytes, reason) in cases {
        match GgufFile::from_bytes(bytes) {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(error) if !error.to_string().contains(reason) => failures.push(format!("{name}: {error}")),
            Err(error) if !matches!(error.kind(), ErrorKind::InvalidFile | ErrorKind::Unsupported) => {
                failures.push(format!("{name}: {:?}", error.kind()));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn small_file() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "test").set("n", 7u32).set("eps", 1e-6f32).set("on", true);
    writer.set("words", vec!["a".to_owned(), String::new(), "ä".to_owned()]).set("none", Vec::<f64>::new());
    writer.declare("a.weight", &[3, 2], GgmlType::F32).expect("declared");
    writer.declare("b.weight", &[32], GgmlType::Q8_0).expect("declared");
    let expected = writer.file_bytes();
    let mut stream = writer.start(Vec::new()).expect("started");
    stream.begin("a.weight").expect("begun");
    stream.write(&[1; 10]).expect("first piece");
    stream.write(&[2; 14]).expect("second piece");
    stream.write_tensor("b.weight", &[3; 34]).expect("written");
    let bytes = stream.finish().expect("finished");
    assert_eq!(bytes.len() as u64, expected);
    bytes
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes = small_file();
    let last = bytes.len() - 30 /* padding after the last tensor */;
    for n in 0..last {
        assert!(GgufFile::from_bytes(bytes[..n].to_vec()).is_err(), "{n} of {} bytes", bytes.len());
    }
    assert!(GgufFile::from_bytes(bytes[..last].to_vec()).is_ok());
}

#[test]
fn getters_convert_or_tell_what_is_there() {
    let file = GgufFile::from_bytes(small_file()).expect("valid");
    assert_eq!(file.str("general.architecture").expect("string"), "test");
    assert_eq!((file.u32("n").expect("u32"), file.bool("on").expect("bool")), (7, true));
    assert_eq!(file.strings("words").expect("strings")[2], "ä");
    assert_eq!(file.opt_u32("missing").expect("no error"), None);
    let missing = file.f32("missing").expect_err("missing").to_string();
    assert!(missing.contains("missing metadata") && missing.contains("missing"), "{missing}");
    let wrong = file.str("n").expect_err("a number").to_string();
    assert!(wrong.contains("got u32 7, needed string"), "{wrong}");
}

#[test]
fn require_compares_shapes_without_trailing_ones() {
    let file = GgufFile::from_bytes(small_file()).expect("valid");
    let tensor = file.require("a.weight", &[3, 2, 1]).expect("there");
    assert_eq!(file.data(tensor)[..12], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(file.require("a.weight", &[2, 3]).expect_err("transposed").kind(), ErrorKind::Mismatch);
    assert_eq!(file.require("c.weight", &[3]).expect_err("missing").kind(), ErrorKind::InvalidFile);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    writer.declare("a", &[4], GgmlType::F32).expect("declared");
    assert!(writer.declare("a", &[4], GgmlType::F32).is_err(), "the name is taken");
    assert!(writer.declare("", &[4], GgmlType::F32).is_err(), "no name");
    assert!(writer.declare("b", &[33], GgmlType::Q8_0).is_err(), "half a block");
    let mut stream = writer.start(Vec::new()).expect("started");
    assert!(stream.begin("b").is_err(), "not declared");
    stream.begin("a").expect("begun");
    assert!(stream.write(&[0; 17]).is_err(), "too much");
    stream.write(&[0; 4]).expect("a part");
    assert!(stream.finish().is_err(), "incomplete");
}

#[test]
fn a_committed_file_is_read_back_and_an_abandoned_one_is_gone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("a.gguf");
    let declare = || {
        let mut writer = GgufWriter::new();
        writer.declare("a", &[2], GgmlType::F16).expect("declared");
        writer.create(&path).expect("created")
    };
    drop(declare());
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
    let mut stream = declare();
    stream.write_tensor("a", &[1, 2, 3, 4]).expect("written");
    stream.commit().expect("committed");
    let file = GgufFile::open(&path).expect("valid");
    assert_eq!(file.data(&file.tensors()[0]), [1, 2, 3, 4]);
    let missing = GgufFile::open(directory.path().join("b.gguf")).expect_err("missing");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
        vec(any::<i32>(), 0..5).prop_map(Value::from),
        vec(any::<f32>(), 0..5).prop_map(Value::from),
        vec(any::<bool>(), 0..5).prop_map(Value::from),
        vec(any::<u64>(), 0..5).prop_map(Value::from),
        vec(".{0,9}", 0..5).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        metadata in proptest::collection::hash_map("[a-z.]{1,12}", values(), 0..8),
        tensors in proptest::collection::hash_map(
            "[a-z.0-9]{1,63}",
            (vec(1u64..5, 1..5), proptest::sample::select(GgmlType::ALL), any::<u8>()),
            0..6,
        ),
    ) {
        let metadata: Vec<_> = metadata.into_iter().filter(|(key, _)| key != ALIGNMENT_KEY).collect();
        let mut writer = GgufWriter::new();
        for (key, value) in &metadata {
            writer.set(key, value.clone());
        }
        let tensors: Vec<_> = tensors.into_iter().map(|(name, (mut shape, dtype, fill))| {
            shape[0] *= dtype.block_size();
            (name, shape, dtype, fill)
        }).collect();
        for (name, shape, dtype, _) in &tensors {
            writer.declare(name, shape, *dtype)?;
        }
        let infos = writer.tensors().to_vec();
        let mut stream = writer.start(Vec::new())?;
        for (info, (name, .., fill)) in infos.iter().zip(&tensors) {
            stream.write_tensor(name, &vec![*fill; info.n_bytes as usize])?;
        }
        let file = GgufFile::from_bytes(stream.finish()?)?;
        // Compared as text: NaN is a value like any other here.
        prop_assert_eq!(format!("{:?}", file.metadata()), format!("{metadata:?}"));
        prop_assert_eq!(file.tensors(), &infos[..]);
        for (name, .., fill) in &tensors {
            let info = file.tensor(name).expect("declared above");
            prop_assert!(file.data(info).iter().all(|byte| byte == fill));
        }
    }

    #[test]
    fn a_flipped_byte_is_refused_or_harmless(position in 0usize..1000, byte in any::<u8>()) {
        let mut bytes = small_file();
        let n = bytes.len();
        bytes[position % n] = byte;
        if let Ok(file) = GgufFile::from_bytes(bytes) {
            for tensor in file.tensors() {
                prop_assert_eq!(file.data(tensor).len() as u64, tensor.n_bytes);
            }
        }
    }
}
