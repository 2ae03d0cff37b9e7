use super::text::LONGEST;
use super::*;
use crate::SparsePattern;
use crate::sparse::mask::uniform_random;
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;

fn read_matrix(name: &str, bytes: impl AsRef<[u8]>) -> Result<FileMatrix, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path).map_err(|error| {
        let message = error.to_string();
        assert!(message.starts_with(&path.display().to_string()), "no path in: {message}");
        message
    })
}

fn read_text(name: &str, text: &str) -> Result<SparsePattern, String> {
    read_matrix(name, text).map(|matrix| matrix.pattern)
}

#[track_caller]
fn refused(name: &str, text: &str, part: &str) {
    let message = read_text(name, text).unwrap_err();
    assert!(message.contains(part), "'{message}' does not say '{part}'");
}

#[test]
fn smtx_in_every_spelling() {
    let want = SparsePattern::new(3, 4, vec![0, 2, 2, 3], vec![1, 3, 0]).unwrap();
    for text in [
        "3, 4, 3\n0 2 2 3\n1 3 0\n",
        "3 4 3\n0, 2, 2, 3\n1, 3, 0",
        "3, 4, 3 \r\n0 2 2 3 \r\n1 3 0 \r\n",
        "\u{feff}3, 4, 3\n0 2 2 3\n3 1 0\n",
    ] {
        assert_eq!(read_text("a.smtx", text).unwrap(), want);
    }
    let empty = read_text("a.smtx", "0, 0, 0\n0\n\n").unwrap();
    assert_eq!((empty.rows(), empty.columns(), empty.nnz()), (0, 0, 0));
    assert_eq!(read_text("a.smtx", "2 2 0\n0 0 0").unwrap().nnz(), 0);
    assert_eq!(read_text("a.smtx", "1 2 2\n0 2\n0 1").unwrap().density(), 1.0);
}

#[test]
fn malformed_smtx_says_what_and_where() {
    for (text, part) in [
        ("", "ends before its first line"),
        ("3, 4\n", "line 1: 2 numbers"),
        ("3, 4, 3\n", "ends before its row offsets"),
        ("3, 4, 3\n0 2 2 3\n", "ends before its column indices"),
        ("3, 4, 3\n0 2 2\n1 3 0\n", "line 2: 3 row offsets for 3 rows, 4 are needed"),
        ("3, 4, 4\n0 2 2 3\n1 3 0\n", "line 3: 3 column indices, but the first line says 4"),
        ("3, 4, 3\n0 2 1 3\n1 3 0\n", "row 1"),
        ("3, 4, 3\n1 2 2 3\n1 3 0\n", "1"),
        ("3, 4, 3\n0 2 2 2\n1 3 0\n", "3"),
        ("3, 4, 3\n0 2 2 3\n1 4 0\n", "4"),
        ("4294967294 1 0\n0\n", "at most 16777216 rows"),
        ("1 4294967294 0\n0 0\n", "at most 16777216 rows"),
        ("3, 4, 3\n0 2 2 3\n1 1 0\n", "row 0"),
        ("3, 4, 3\n0 2 2 3\n1 -3 0\n", "line 3: column index '-3'"),
        ("3, 4, 3\n0 2 2 4294967296\n1 3 0\n", "row offset '4294967296'"),
        ("3, 4, 3\n0 2 2 3\n1 3 0\n7\n", "line 4: more after"),
        ("three 4 3\n", "extent 'three'"),
    ] {
        refused("a.smtx", text, part);
    }
}

#[test]
fn mtx_of_every_kind() {
    let want = SparsePattern::new(3, 3, vec![0, 1, 3, 4], vec![1, 0, 2, 1]).unwrap();
    for text in [
        "%%MatrixMarket matrix coordinate pattern general\n% note\n3 3 4\n3 2\n1 2\n2 3\n2 1\n",
        "%%MatrixMarket matrix coordinate real symmetric\r\n3 3 2\r\n2 1 0.5\r\n3 2 -1e3",
        "%%matrixmarket MATRIX coordinate integer skew-symmetric\n\n3 3 2\n3 2 1\n2 1 7\n",
        "\u{feff}%%MatrixMarket matrix coordinate unsigned-integer symmetric\n  % note\n3 3 2\n2 1 1\n3 2 1\n",
        "%%MatrixMarket matrix coordinate complex hermitian\n3 3 2\n2 1 0 1\n3 2 1 0\n",
        "%%MatrixMarket matrix coordinate double symmetric\n3 3 2\n2 1 1.5D+03\n3 2 1\n",
    ] {
        assert_eq!(read_text("a.mtx", text).unwrap(), want);
    }
    const GENERAL: &str = "%%MatrixMarket matrix coordinate real general\n";
    for (rest, part) in [
        ("3 3 2\n1 1 1\n", "ends before all of its 2 entries"),
        ("3 3 1\n1 1 1\n2 2 2\n", "line 4: more than the 1 entries"),
        ("3 3 2\n1 1 1\n1 1 2\n", "1, 1 appears twice"),
        ("3 3 1\n0 1 1\n", "line 3: place 0, 1 lies outside"),
        ("3 3 1\n1 4 1\n", "line 3: place 1, 4 lies outside"),
        ("3 3 1\n1 2\n", "line 3: 2 fields where 3 belong"),
        ("3 3 1\n1 2 x\n", "line 3: value 'x'"),
        ("3 3\n", "line 2: 2 numbers"),
        ("4294967294 4294967294 1\n1 1 1\n", "at most 16777216 rows"),
    ] {
        refused("a.mtx", &format!("{GENERAL}{rest}"), part);
    }
    refused("a.mtx", "%%MatrixMarket matrix array real general\n1 1\n1\n", "line 1: not");
    refused("a.mtx", "%%MatrixMarket matrix coordinate real symmetric\n2 3 0\n", "2 × 3 cannot");
}

#[test]
fn what_is_passed_over_may_be_anything() {
    let want = SparsePattern::new(2, 2, vec![0, 1, 2], vec![0, 1]).unwrap();
    let latin =
        b"%%MatrixMarket matrix coordinate real general\n%by B\xf6hm\n2 2 2\n1 1 1\n2 2 1\n";
    assert_eq!(read_matrix("A.MTX", latin).unwrap().pattern, want);
    assert_eq!(read_text("a.SMTX", "2 2 2\n0 1 2\n0 1\n").unwrap(), want);
    let zeros =
        "%%MatrixMarket matrix coordinate real symmetric\n2 2 4\n1 1 1\n2 1 0\n2 2 -3\n1 2 -0.0\n";
    assert_eq!(read_matrix("a.mtx", zeros).unwrap(), FileMatrix { pattern: want, zeros: 2 });
    let endless =
        format!("%%MatrixMarket matrix coordinate real general\n%{}\n", "x".repeat(2 << 20));
    refused("a.mtx", &endless, "1048576 bytes");
    let padded =
        "%%MatrixMarket matrix coordinate real general\n".to_string() + &"\n".repeat(2 << 20);
    refused("a.mtx", &padded, "more than 1048576 bytes");
}

/// A `.npy` file of format 1.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn integers(numbers: &[i32]) -> Vec<u8> {
    let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    npy("<i4", &format!("({},)", numbers.len()), &data)
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Result<FileMatrix, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default();
        // Deflated: zeros become a thousandth.
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    read(&path).map_err(|error| error.to_string())
}

#[test]
fn npz_of_scipy() {
    let shape: Vec<u8> = [2i64, 3].iter().flat_map(|n| n.to_le_bytes()).collect();
    let good = || {
        vec![
            ("format", npy("|S3", "()", b"csr")),
            ("shape", npy("<i8", "(2,)", &shape)),
            ("indptr", integers(&[0, 1, 3])),
            ("indices", integers(&[2, 0, 1])),
        ]
    };
    let want = SparsePattern::new(2, 3, vec![0, 1, 3], vec![2, 0, 1]).unwrap();
    assert_eq!(npz(&good()).unwrap(), FileMatrix { pattern: want.clone(), zeros: 0 });
    let with = |at: usize, bytes: Vec<u8>| {
        let mut arrays = good();
        arrays[at].1 = bytes;
        npz(&arrays).unwrap_err()
    };
    assert!(with(0, npy("<U3", "()", b"c\0\0\0o\0\0\0o\0\0\0")).contains("format 'coo'"));
    assert!(with(2, integers(&[0, -1, 3])).contains("'indptr' at 1: -1"));
    assert!(with(3, integers(&[2, 0])).contains('3'));
    assert!(with(3, integers(&[2, 0, 3])).contains('3'));
    assert!(with(3, npy("<f4", "(3,)", &[0; 12])).contains("'<f4'"));
    assert!(with(3, npy("<i4", "(99999999999,)", &[0; 12])).contains("holds more than 1048576"));
    assert!(with(3, npy("<i4", "(3,)", &[0; 8])).contains("fewer than the 12 bytes"));
    assert!(with(3, b"no array".to_vec()).contains("does not start as a .npy"));
    assert!(with(1, integers(&[2])).contains("1 extents"));
    let bomb = vec![0; LONGEST as usize + 4];
    let bomb = npy("<i4", &format!("({},)", bomb.len() / 4), &bomb);
    assert!(with(3, bomb).contains("holds more than 1048576 bytes"));
    let long = [integers(&[2, 0, 1]), vec![0; 8]].concat();
    assert!(with(3, long).contains("more than the 12 bytes"));
    let huge: Vec<u8> = [1i64 << 32, 3].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert!(with(1, npy("<i8", "(2,)", &huge)).contains("4294967296 lies outside"));
    let tall: Vec<u8> = [(1i64 << 32) - 2, 3].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert!(with(1, npy("<i8", "(2,)", &tall)).contains("at most 16777216 rows"));
    // In any order, with values of which some are zero.
    let mut arrays = good();
    arrays[3].1 = integers(&[2, 1, 0]);
    assert_eq!(npz(&arrays).unwrap().pattern, want);
    let values: Vec<u8> = [1.0, -0.0, 3.0].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
    arrays.push(("data", npy("<f8", "(3,)", &values)));
    let kept = SparsePattern::new(2, 3, vec![0, 1, 2], vec![2, 0]).unwrap();
    assert_eq!(npz(&arrays).unwrap(), FileMatrix { pattern: kept, zeros: 1 });
    arrays[4].1 = npy("|b1", "(3,)", &[1, 1, 1]);
    assert_eq!(npz(&arrays).unwrap().zeros, 0);
    arrays[4].1 = npy("<f8", "(2,)", &values[..16]);
    assert!(npz(&arrays).unwrap_err().contains("2 values for 3 indices"));
    arrays.truncate(4);
    arrays[3].1 = integers(&[2, 1, 1]);
    assert!(npz(&arrays).unwrap_err().contains("row 1"));
    assert!(npz(&good()[..3]).unwrap_err().contains("no array 'indices'"));
}

/// Whatever byte of a file is another, it is read or refused with its name.
#[test]
fn no_damaged_byte_makes_a_reader_panic() {
    let files = [
        ("a.mtx", "%%MatrixMarket matrix coordinate real general\n3 3 2\n1 1 1\n3 2 5\n"),
        ("a.smtx", "3, 4, 3\n0 2 2 3\n1 3 0\n"),
    ];
    for (name, text) in files {
        for at in 0..text.len() {
            for byte in [0, b'\n', b'9', b'-', 0xFF] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = read_matrix(name, &bytes);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_in_a_short_line() {
    let noise = "\u{fffd}\0\u{7f}\u{1b}[".repeat(10_000);
    for (name, text) in [
        ("a.smtx", noise.clone()),
        ("a.smtx", format!("3, 4, 3\n0 2 {noise} 3\n1 3 0\n")),
        ("a.mtx", noise.clone()),
        ("a.mtx", format!("%%MatrixMarket matrix {noise} real general\n")),
        ("a.mtx", format!("%%MatrixMarket matrix coordinate real general\n3 3 1\n1 1 {noise}\n")),
    ] {
        let message = read_text(name, &text).unwrap_err();
        assert!(message.len() < 1000 && !message.contains(char::is_control), "{message:.2000}");
    }
}

#[test]
fn other_files_are_refused() {
    refused("a.txt", "", "files end in .smtx, .mtx or .npz");
    refused("a.npz", "no archive", "no usable .npz");
    let message = read(Path::new("missing.smtx")).unwrap_err().to_string();
    assert!(message.contains("missing.smtx: cannot be read"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a.mtx");
    std::fs::create_dir(&inner).unwrap();
    assert!(read(&inner).unwrap_err().to_string().contains("is a folder"));
    assert!(read(Path::new("/dev/null")).is_err());
}

proptest! {
    #[test]
    fn smtx_and_mtx_come_back(rows in 0usize..20, columns in 0usize..20, sparsity in 0.0..1.0) {
        let pattern = uniform_random(rows, columns, sparsity, 3).unwrap();
        let join = |numbers: &[u32]| {
            numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        };
        let smtx = format!(
            "{rows}, {columns}, {}\n{}\n{}\n",
            pattern.nnz(),
            join(pattern.row_offsets()),
            join(pattern.column_indices())
        );
        prop_assert_eq!(&read_text("a.smtx", &smtx).unwrap(), &pattern);
        // The indices of a row in any order.
        let mut backwards = pattern.column_indices().to_vec();
        (0..rows).for_each(|row| backwards[pattern.row_range(row)].reverse());
        let backwards = smtx.replace(&format!("\n{}\n", join(pattern.column_indices())), &format!("\n{}\n", join(&backwards)));
        prop_assert_eq!(&read_text("a.smtx", &backwards).unwrap(), &pattern);
        let mut mtx = format!(
            "%%MatrixMarket matrix coordinate pattern general\n{rows} {columns} {}\n",
            pattern.nnz()
        );
        for row in (0..rows).rev() {
            for column in pattern.row(row) {
                mtx.push_str(&format!("{} {}\n", row + 1, column + 1));
            }
        }
        prop_assert_eq!(&read_text("a.mtx", &mtx).unwrap(), &pattern);
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "[0-9, \n.%a-z-]{0,80}") {
        let _ = read_text("a.smtx", &text);
        let _ = read_text("a.mtx", &format!("%%MatrixMarket matrix coordinate real general\n{text}"));
    }
}
