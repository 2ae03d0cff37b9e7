//! Formats of input, by the names of files.

use std::path::Path;

use crate::DataError;
use crate::error::InputProblem;

/// What the decompressed bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Records.
    Records(RecordFormat),
    /// Files of records.
    Tar,
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFormat {
    Jsonl,
    Xml,
    Text,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

const ENDINGS: [(&str, Format); 5] = [
    (".jsonl", Format::Records(RecordFormat::Jsonl)),
    (".xml", Format::Records(RecordFormat::Xml)),
    (".nxml", Format::Records(RecordFormat::Xml)),
    (".txt", Format::Records(RecordFormat::Text)),
    (".tar", Format::Tar),
];

/// The format of an input and its compression; `None` if the name is not one of an input.
pub(crate) fn format_of(path: &Path) -> Option<(Format, Compression)> {
    let (name, compression) = compression_of(path);
    if name.starts_with('.') {
        return None;
    }
    let (_, format) = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending))?;
    Some((*format, compression))
}

/// The name of a file when it is decompressed, in lower case, and how it is compressed.
pub(crate) fn compression_of(path: &Path) -> (String, Compression) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some(plain) = name.strip_suffix(".gz") {
        (plain.to_owned(), Compression::Gzip)
    } else if let Some(archive) = name.strip_suffix(".tgz") {
        (format!("{archive}.tar"), Compression::Gzip)
    } else if let Some(plain) = name.strip_suffix(".zst") {
        (plain.to_owned(), Compression::Zstd)
    } else {
        (name, Compression::None)
    }
}

/// As [`format_of`], for a file that must be an input.
pub(crate) fn known_format(path: &Path) -> Result<(Format, Compression), DataError> {
    format_of(path).ok_or_else(|| DataError::input(path, None, InputProblem::UnknownName))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_is_told_where_a_name_is_not_known() {
        let message = known_format(Path::new("a.csv")).expect_err("unknown").to_string();
        for (ending, _) in ENDINGS {
            assert!(message.contains(ending), "{message}");
            for (more, compression) in
                [("", Compression::None), (".gz", Compression::Gzip), (".ZST", Compression::Zstd)]
            {
                let found = format_of(Path::new(&format!("a{ending}{more}"))).expect("known");
                assert_eq!(found.1, compression);
            }
        }
        assert_eq!(format_of(Path::new(".hidden.xml")), None);
    }
}
