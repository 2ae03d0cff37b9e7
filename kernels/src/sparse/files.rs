//! Sparse matrices from files: `.smtx`, `.mtx` and scipy's `.npz`. Values are not read: a study draws
//! its own, and a mask has none.
//!
//! * `.smtx` (Deep Learning Matrix Collection): three lines, `rows, columns, nnz`, the row offsets and
//!   the column indices, 0-based, apart by commas or blanks.
//! * `.mtx` (MatrixMarket): coordinate, real, integer or pattern, general, symmetric or
//!   skew-symmetric, 1-based, in any order.
//! * `.npz` (scipy's `save_npz`): CSR with `shape`, `indptr` and `indices`.
//!
//! Indices within a row must rise; a matrix that names a place twice is refused, because which of the
//! two a product should use is anybody's guess.

use super::{PatternError, SparsePattern};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A sparse file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    path: PathBuf,
    problem: Problem,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileErrorKind {
    /// The system cannot read it.
    Io,
    /// It breaks a rule of its format, or has none that is known.
    Content,
    /// Its arrays do not describe a sparse matrix.
    Pattern,
}

impl FileError {
    /// What is wrong.
    pub fn kind(&self) -> FileErrorKind {
        match self.problem {
            Problem::Io(_) => FileErrorKind::Io,
            Problem::Content(_) => FileErrorKind::Content,
            Problem::Pattern(_) => FileErrorKind::Pattern,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Content(String),
    #[error("{0}")]
    Pattern(#[from] PatternError),
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self::Content(text.into())
    }
}

/// Longest file that is read, after decompression: 4 GiB (less in tests, which try to pass it).
const LONGEST: u64 = if cfg!(test) { 1 << 20 } else { 4 << 30 };

/// Reads the pattern of a matrix, by the ending of the file's name.
/// # Errors
/// When the file cannot be read, its format is unknown or it breaks a rule of its format; the message
/// names the path, the place and what was found.
pub fn read(path: &Path) -> Result<SparsePattern, FileError> {
    let reader = match path.extension().and_then(|ending| ending.to_str()) {
        Some("smtx") => read_smtx,
        Some("mtx") => read_mtx,
        Some("npz") => read_npz,
        _ => {
            let problem =
                Problem::new("no sparse matrix by its name: files end in .smtx, .mtx or .npz");
            return Err(FileError { path: path.into(), problem });
        }
    };
    let open = || -> Result<SparsePattern, Problem> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(Problem::new("is a folder"));
        }
        reader(file)
    };
    open().map_err(|problem| FileError { path: path.into(), problem })
}

/// Fields of a line: apart by blanks and commas.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || c == ',').filter(|field| !field.is_empty())
}

fn number(field: &str, what: &str, line: usize) -> Result<u32, Problem> {
    field.parse().map_err(|_| {
        Problem::new(format!("line {line}: {what} '{field}' is no whole number below 2³²"))
    })
}

/// The next line with anything in it, and its number from 1.
fn next_line(
    lines: &mut impl Iterator<Item = (usize, std::io::Result<String>)>,
    what: &str,
) -> Result<(usize, String), Problem> {
    for (at, line) in lines {
        let line = line?;
        if !line.trim().is_empty() {
            return Ok((at + 1, line));
        }
    }
    Err(Problem::new(format!("ends before {what}")))
}

fn read_smtx(file: File) -> Result<SparsePattern, Problem> {
    let mut lines = BufReader::new(file.take(LONGEST)).lines().enumerate();
    let (at, line) = next_line(&mut lines, "its first line, 'rows, columns, nnz'")?;
    let header: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, nnz] = header[..] else {
        let found = header.len();
        return Err(Problem::new(format!(
            "line {at}: {found} numbers where 'rows, columns, nnz' belong"
        )));
    };
    let (at, line) = next_line(&mut lines, "its row offsets")?;
    let offsets: Vec<u32> =
        fields(&line).map(|field| number(field, "row offset", at)).collect::<Result<_, _>>()?;
    if offsets.len() != rows as usize + 1 {
        return Err(Problem::new(format!(
            "line {at}: {} row offsets for {rows} rows, {} are needed",
            offsets.len(),
            u64::from(rows) + 1
        )));
    }
    // A matrix without non-zeros may leave the third line out.
    let (at, line) = match next_line(&mut lines, "its column indices") {
        Err(Problem::Content(_)) if nnz == 0 => (3, String::new()),
        found => found?,
    };
    let indices: Vec<u32> =
        fields(&line).map(|field| number(field, "column index", at)).collect::<Result<_, _>>()?;
    if indices.len() != nnz as usize {
        return Err(Problem::new(format!(
            "line {at}: {} column indices, but the first line says {nnz} non-zeros",
            indices.len()
        )));
    }
    if let Ok((at, _)) = next_line(&mut lines, "nothing") {
        return Err(Problem::new(format!("line {at}: more after the column indices")));
    }
    Ok(SparsePattern::new(rows as usize, columns as usize, offsets, indices)?)
}

fn read_mtx(file: File) -> Result<SparsePattern, Problem> {
    let mut lines = BufReader::new(file.take(LONGEST)).lines().enumerate();
    let (_, banner) = next_line(&mut lines, "its first line, '%%MatrixMarket …'")?;
    let banner = banner.to_lowercase();
    let words: Vec<&str> = banner.split_whitespace().collect();
    let symmetric = match words[..] {
        [
            "%%matrixmarket",
            "matrix",
            "coordinate",
            "real" | "integer" | "pattern",
            symmetry @ ("general" | "symmetric" | "skew-symmetric"),
        ] => symmetry != "general",
        _ => {
            return Err(Problem::new(
                "line 1: not '%%MatrixMarket matrix coordinate', then real, integer or pattern, \
                 then general, symmetric or skew-symmetric",
            ));
        }
    };
    let values = usize::from(words[3] != "pattern");
    let mut lines = lines.filter(|(_, line)| !line.as_ref().is_ok_and(|l| l.starts_with('%')));
    let (at, line) = next_line(&mut lines, "its size line")?;
    let size: Vec<u32> =
        fields(&line).map(|field| number(field, "extent", at)).collect::<Result<_, _>>()?;
    let [rows, columns, entries] = size[..] else {
        return Err(Problem::new(format!(
            "line {at}: {} numbers where 'rows columns entries' belong",
            size.len()
        )));
    };
    if symmetric && rows != columns {
        return Err(Problem::new(format!("line {at}: {rows} × {columns} cannot be symmetric")));
    }
    SparsePattern::check(rows as usize, columns as usize, 0)?;
    let mut places = Vec::new();
    for _ in 0..entries {
        let (at, line) = next_line(&mut lines, &format!("all of its {entries} entries"))?;
        let found: Vec<&str> = fields(&line).collect();
        if found.len() != 2 + values {
            return Err(Problem::new(format!(
                "line {at}: {} fields where {} belong",
                found.len(),
                2 + values
            )));
        }
        let (row, column) = (number(found[0], "row", at)?, number(found[1], "column", at)?);
        if !(1..=rows).contains(&row) || !(1..=columns).contains(&column) {
            return Err(Problem::new(format!(
                "line {at}: place {row}, {column} lies outside 1, 1 … {rows}, {columns}"
            )));
        }
        if values == 1 && found[2].parse::<f64>().is_err() {
            return Err(Problem::new(format!("line {at}: value '{}' is no number", found[2])));
        }
        places.push((row - 1, column - 1));
        if symmetric && row != column {
            places.push((column - 1, row - 1));
        }
    }
    if let Ok((at, _)) = next_line(&mut lines, "nothing") {
        return Err(Problem::new(format!("line {at}: more than the {entries} entries announced")));
    }
    places.sort_unstable();
    if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]) {
        let (row, column) = (twice[0].0 + 1, twice[0].1 + 1);
        return Err(Problem::new(format!("the place {row}, {column} appears twice")));
    }
    if places.len() >= u32::MAX as usize {
        return Err(PatternError::TooLarge { what: "nnz", count: places.len() }.into());
    }
    let mut offsets = vec![0u32; rows as usize + 1];
    for &(row, _) in &places {
        offsets[row as usize + 1] += 1;
    }
    for row in 0..rows as usize {
        offsets[row + 1] += offsets[row];
    }
    let indices = places.into_iter().map(|(_, column)| column).collect();
    Ok(SparsePattern::new(rows as usize, columns as usize, offsets, indices)?)
}

fn read_npz(file: File) -> Result<SparsePattern, Problem> {
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

#[cfg(test)]
mod tests;
