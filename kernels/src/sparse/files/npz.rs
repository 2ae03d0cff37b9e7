//! `.npz`: CSR with `shape`, `indptr` and `indices`, arrays of NumPy in a zip archive.

use super::error::Problem;
use super::text::{LONGEST, fields};
use crate::SparsePattern;
use std::fs::File;
use std::io::{BufReader, Read};

pub(super) fn read(file: File) -> Result<SparsePattern, Problem> {
    let broken = |error: zip::result::ZipError| Problem::new(format!("no usable .npz: {error}"));
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut array = |name: &str| -> Result<Npy, Problem> {
        let file = archive.by_name(&format!("{name}.npy")).map_err(|error| match error {
            zip::result::ZipError::FileNotFound => Problem::new(format!(
                "holds no array '{name}': only scipy's CSR matrices (save_npz) can be read"
            )),
            error => broken(error),
        })?;
        // The archive's own statement of the size cannot be trusted.
        let mut bytes = Vec::new();
        file.take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Problem::new(format!("array '{name}' is damaged: {error}")))?;
        if bytes.len() as u64 > LONGEST {
            return Err(Problem::new(format!("array '{name}' holds more than {LONGEST} bytes")));
        }
        Npy::parse(&bytes).map_err(|problem| Problem::new(format!("array '{name}': {problem}")))
    };
    let format = array("format")?;
    let Npy::Text(format) = format else {
        return Err(Problem::new("array 'format' is no text"));
    };
    if format != "csr" {
        return Err(Problem::new(format!("has format '{format}': convert it to csr (tocsr)")));
    }
    let mut integers = |name: &str| match array(name)? {
        Npy::Integers(numbers) => Ok(numbers),
        Npy::Text(_) => Err(Problem::new(format!("array '{name}' holds no integers"))),
    };
    let shape = integers("shape")?;
    let [rows, columns] = shape[..] else {
        return Err(Problem::new(format!("array 'shape' has {} extents, not 2", shape.len())));
    };
    let narrow = |name: &str, numbers: Vec<i64>| -> Result<Vec<u32>, Problem> {
        let each = numbers.iter().enumerate().map(|(at, &n)| {
            u32::try_from(n).map_err(|_| {
                Problem::new(format!("array '{name}' at {at}: {n} lies outside 0 … 2³² − 1"))
            })
        });
        each.collect()
    };
    let extents = narrow("shape", vec![rows, columns])?;
    let offsets = narrow("indptr", integers("indptr")?)?;
    let indices = narrow("indices", integers("indices")?)?;
    Ok(SparsePattern::new(extents[0] as usize, extents[1] as usize, offsets, indices)?)
}

/// An array of a `.npy` file (NumPy format 1 and 2), as far as a sparse matrix needs them.
enum Npy {
    Integers(Vec<i64>),
    Text(String),
}

impl Npy {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let cut = || "is cut short".to_string();
        if !bytes.starts_with(b"\x93NUMPY") {
            return Err("does not start as a .npy file".into());
        }
        let (header_at, header_len) = match bytes.get(6) {
            Some(1) => {
                let length = bytes.get(8..10).ok_or_else(cut)?;
                (10, u16::from_le_bytes([length[0], length[1]]) as usize)
            }
            Some(2 | 3) => {
                let length = bytes.get(8..12).ok_or_else(cut)?;
                (12, u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize)
            }
            version => return Err(format!("has unknown version {version:?}")),
        };
        let header = bytes.get(header_at..header_at + header_len).ok_or_else(cut)?;
        let header = std::str::from_utf8(header).map_err(|_| "has a header that is no text")?;
        let data = &bytes[header_at + header_len..];
        let after = |key: &str| {
            let at = header.find(&format!("'{key}'"))? + key.len() + 2;
            Some(header[at..].trim_start_matches([':', ' ']))
        };
        let kind = after("descr")
            .and_then(|rest| rest.strip_prefix('\'')?.split('\'').next())
            .ok_or("names no type")?;
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
        let extents: Option<Vec<usize>> =
            shape.map(|shape| fields(shape).map(|n| n.parse().ok()).collect()).ok_or("no shape")?;
        let count = extents
            .ok_or("has a shape that is no list of numbers")?
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .ok_or("has a shape beyond 64 bits")?;
        let size: usize = kind[2.min(kind.len())..].parse().map_err(|_| "has an unknown type")?;
        let width = if kind.starts_with("<U") { 4 } else { 1 };
        let size = size.checked_mul(width);
        let expected =
            size.and_then(|size| count.checked_mul(size)).ok_or("has a shape beyond 64 bits")?;
        if data.len() != expected {
            return Err(format!("has {} bytes of data, its header says {expected}", data.len()));
        }
        match kind {
            "<i4" => Ok(Self::Integers(
                data.chunks_exact(4)
                    .map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                    .collect(),
            )),
            "<i8" => Ok(Self::Integers(
                data.chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
                    .collect(),
            )),
            _ if kind.starts_with("|S") || kind.starts_with("<U") => {
                let text = data.iter().step_by(width).filter(|&&b| b != 0);
                Ok(Self::Text(text.map(|&b| char::from(b)).collect()))
            }
            _ => Err(format!("has type '{kind}', not 32- or 64-bit integers")),
        }
    }
}
