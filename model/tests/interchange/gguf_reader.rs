//! A reader of GGUF files, written from the format's description alone.

use mediswift_kernels::Precision;
use std::collections::BTreeMap;

/// A file of version 3.
pub struct Gguf {
    pub pairs: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Tensor>,
}

/// A value of a key.
#[derive(Debug, PartialEq)]
pub enum Value {
    Number(f64),
    String(String),
    Array(Vec<Value>),
}

pub struct Tensor {
    /// Fastest first.
    pub dimensions: Vec<usize>,
    pub precision: Precision,
    pub values: Vec<f32>,
}

impl Gguf {
    #[track_caller]
    pub fn read(bytes: &[u8]) -> Self {
        let mut cursor = Cursor { bytes, at: 0 };
        assert_eq!(cursor.take::<4>(), *b"GGUF");
        assert_eq!(cursor.u32(), 3);
        let (tensors, pairs) = (cursor.u64(), cursor.u64());
        let pairs: BTreeMap<_, _> = (0..pairs)
            .map(|_| {
                let (key, kind) = (cursor.string(), cursor.u32());
                (key, cursor.value(kind))
            })
            .collect();
        let described: Vec<_> = (0..tensors)
            .map(|_| {
                let (name, rank) = (cursor.string(), cursor.u32());
                let dimensions: Vec<usize> = (0..rank).map(|_| cursor.u64() as usize).collect();
                (name, dimensions, cursor.u32(), cursor.u64() as usize)
            })
            .collect();
        let data = &bytes[cursor.at.next_multiple_of(32)..];
        assert!(bytes[cursor.at..bytes.len() - data.len()].iter().all(|&byte| byte == 0));
        let mut end = 0;
        let mut tensors = BTreeMap::new();
        for (name, dimensions, kind, offset) in described {
            assert_eq!(offset, usize::next_multiple_of(end, 32), "{name} leaves a gap or overlaps");
            let count: usize = dimensions.iter().product();
            let (precision, size, number): (_, _, fn(&[u8]) -> f32) = match kind {
                0 => (Precision::F32, 4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                1 => (Precision::F16, 2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
                30 => (Precision::Bf16, 2, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
                _ => panic!("{name} has type {kind}"),
            };
            end = offset + count * size;
            let values = data[offset..end].chunks(size).map(number).collect();
            tensors.insert(name, Tensor { dimensions, precision, values });
        }
        assert_eq!(data.len(), end.next_multiple_of(32));
        Self { pairs, tensors }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn string(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => Value::Number(f64::from(self.u32())),
            5 => Value::Number(f64::from(i32::from_le_bytes(self.take()))),
            6 => Value::Number(f64::from(f32::from_le_bytes(self.take()))),
            8 => Value::String(self.string()),
            9 => {
                let (kind, length) = (self.u32(), self.u64());
                Value::Array((0..length).map(|_| self.value(kind)).collect())
            }
            other => panic!("no value has type {other} here"),
        }
    }
}
