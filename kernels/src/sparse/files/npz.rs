//! `.npz`: CSR with `shape`, `indptr`, `indices` and `data`, arrays of NumPy in a zip archive.
//!
//! An array is read as it is decompressed, and no more of it than its header and the matrix's extents
//! allow: the archive's own statement of sizes cannot be trusted.

use super::error::Problem;
use super::matrix::{FileMatrix, assemble, check_extents};
use super::text::{LONGEST, fields};
use crate::PatternError;
use std::fs::File;
use std::io::{self, BufReader, Read};
use zip::read::ZipFile;
use zip::result::ZipError;

pub(super) fn read(file: File) -> Result<FileMatrix, Problem> {
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let format = Array::open(&mut archive, "format")?.text()?;
    if format != "csr" {
        return Err(Problem::new(format!("has format '{format}': convert it to csr (tocsr)")));
    }
    let shape = Array::open(&mut archive, "shape")?;
    if shape.count != 2 {
        let count = shape.count;
        return Err(Problem::new(format!("array 'shape' has {count} extents, not 2")));
    }
    let shape = shape.integers()?;
    let (rows, columns) = (shape[0], shape[1]);
    check_extents(rows, columns)?;
    let extents = (rows as usize, columns as usize);
    let offsets = Array::open(&mut archive, "indptr")?;
    if offsets.count != extents.0 + 1 {
        return Err(PatternError::OffsetCount { rows: extents.0, found: offsets.count }.into());
    }
    let offsets = offsets.integers()?;
    let indices = Array::open(&mut archive, "indices")?;
    let last = offsets.last().copied().unwrap_or(0);
    if last as usize != indices.count {
        return Err(PatternError::LastOffset { found: last, nnz: indices.count }.into());
    }
    let indices = indices.integers()?;
    let zeros = match Array::open(&mut archive, "data") {
        Ok(data) => data.zeros(indices.len())?,
        Err(Problem::Content(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(assemble(extents, offsets, indices, zeros)?)
}

fn broken(error: ZipError) -> Problem {
    Problem::new(format!("no usable .npz: {error}"))
}

/// An array of a `.npy` file (NumPy format 1, 2 and 3), whose header has been read.
struct Array<'a> {
    name: &'static str,
    file: ZipFile<'a, BufReader<File>>,
    /// Type of the elements, as NumPy writes it.
    kind: String,
    count: usize,
    /// Bytes of an element.
    size: usize,
}

impl<'a> Array<'a> {
    fn open(
        archive: &'a mut zip::ZipArchive<BufReader<File>>,
        name: &'static str,
    ) -> Result<Self, Problem> {
        let mut file = archive.by_name(&format!("{name}.npy")).map_err(|error| match error {
            ZipError::FileNotFound => Problem::new(format!(
                "holds no array '{name}': only scipy's CSR matrices (save_npz) can be read"
            )),
            error => broken(error),
        })?;
        let (kind, count, size) = header(&mut file)
            .map_err(|problem| Problem::new(format!("array '{name}': {problem}")))?;
        if (count as u64).saturating_mul(size as u64) > LONGEST {
            return Err(Problem::new(format!("array '{name}' holds more than {LONGEST} bytes")));
        }
        Ok(Self { name, file, kind, count, size })
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> Problem {
        Problem::new(format!("array '{}' {problem}", self.name))
    }

    /// Calls `each` with the bytes of every element.
    fn elements(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let expected = self.count * self.size;
        let mut chunk = vec![0; self.size * (4096 / self.size.max(1)).max(1)];
        let mut read = 0;
        while read < expected {
            let part = &mut chunk[..(expected - read).min(self.size * (4096 / self.size).max(1))];
            match self.file.read_exact(part) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let problem = format!("has fewer than the {expected} bytes of its header");
                    return Err(self.wrong(problem));
                }
                Err(error) => return Err(self.wrong(format_args!("is damaged: {error}"))),
            }
            read += part.len();
            part.chunks_exact(self.size).try_for_each(&mut each)?;
        }
        // To the end, where the sum of the archive is compared.
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                Err(self.wrong(format_args!("has more than the {expected} bytes of its header")))
            }
            Err(error) => Err(self.wrong(format_args!("is damaged: {error}"))),
        }
    }

    fn integers(mut self) -> Result<Vec<u32>, Problem> {
        let read: fn(&[u8]) -> i128 = match &*self.kind {
            "<i4" => |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into(),
            "<u4" => |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]).into(),
            "<i8" => |b| i64::from_le_bytes(b.try_into().expect("eight bytes")).into(),
            "<u8" => |b| u64::from_le_bytes(b.try_into().expect("eight bytes")).into(),
            kind => {
                let problem = format!("has type '{kind}', not 32- or 64-bit integers");
                return Err(self.wrong(problem));
            }
        };
        let (name, mut numbers) = (self.name, Vec::with_capacity(self.count));
        self.elements(|bytes| {
            let number = read(bytes);
            numbers.push(u32::try_from(number).map_err(|_| {
                let at = numbers.len();
                Problem::new(format!("array '{name}' at {at}: {number} lies outside 0 … 2³² − 1"))
            })?);
            Ok(())
        })?;
        Ok(numbers)
    }

    fn text(mut self) -> Result<String, Problem> {
        let width = match self.kind.get(..2) {
            Some("|S") => 1,
            Some("<U") => 4,
            _ => return Err(self.wrong("is no text")),
        };
        if self.count != 1 || self.size > 64 {
            return Err(self.wrong("is no short text"));
        }
        let mut text = String::new();
        self.elements(|bytes| {
            text.extend(bytes.iter().step_by(width).filter(|&&b| b != 0).map(|&b| char::from(b)));
            Ok(())
        })?;
        Ok(text)
    }

    /// Which of `nnz` values are zero; nothing of values of a type without zero.
    fn zeros(mut self, nnz: usize) -> Result<Vec<bool>, Problem> {
        if self.count != nnz {
            let count = self.count;
            return Err(self.wrong(format_args!("has {count} values for {nnz} indices")));
        }
        // Bytes of a part with a sign of its own; whole numbers have no zero with a sign.
        let signed = match self.kind.get(1..2) {
            Some("f") => self.size,
            Some("c") => self.size / 2,
            Some("i" | "u" | "b") => 0,
            _ => return Ok(Vec::new()),
        };
        let mut zeros = Vec::with_capacity(nnz);
        self.elements(|bytes| {
            let is_sign = |at: usize| signed > 0 && at % signed == signed - 1;
            let is_zero = |(at, &byte): (usize, &u8)| byte == 0 || (is_sign(at) && byte == 0x80);
            zeros.push(bytes.iter().enumerate().all(is_zero));
            Ok(())
        })?;
        Ok(zeros)
    }
}

/// Type, number and size of the elements, from the header of a `.npy` file.
fn header(file: &mut impl Read) -> Result<(String, usize, usize), String> {
    let cut = |_| "is cut short".to_string();
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|_| "does not start as a .npy file")?;
    if !magic.starts_with(b"\x93NUMPY") {
        return Err("does not start as a .npy file".into());
    }
    let length = match magic[6] {
        1 => {
            let mut length = [0; 2];
            file.read_exact(&mut length).map_err(cut)?;
            u32::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(cut)?;
            u32::from_le_bytes(length)
        }
        version => return Err(format!("has unknown version {version}")),
    };
    if length > 1 << 16 {
        return Err(format!("has a header of {length} bytes"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(cut)?;
    let header = std::str::from_utf8(&header).map_err(|_| "has a header that is no text")?;
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
    let beyond = "has a shape beyond 64 bits";
    let count = extents
        .ok_or("has a shape that is no list of numbers")?
        .into_iter()
        .try_fold(1usize, usize::checked_mul)
        .ok_or(beyond)?;
    let size: usize =
        kind.get(2..).and_then(|size| size.parse().ok()).ok_or("has an unknown type")?;
    let size = if kind.starts_with("<U") { size.checked_mul(4).ok_or(beyond)? } else { size };
    if size == 0 || size > 1 << 16 {
        return Err(format!("has elements of type '{kind}'"));
    }
    count.checked_mul(size).ok_or(beyond)?;
    Ok((kind.to_string(), count, size))
}
