//! Sparse matrices: the first byte chooses the format.
#![no_main]

use std::fs;

use mediswift_kernels::sparse::files;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = ["input.mtx", "input.smtx", "input.npz"][usize::from(first) % 3];
    let path = folder.path().join(name);
    fs::write(&path, rest).expect("written");
    match files::read(&path) {
        Ok(matrix) => {
            let pattern = matrix.pattern;
            let rows = 0..pattern.rows();
            assert_eq!(rows.map(|row| pattern.row(row).len()).sum::<usize>(), pattern.nnz());
            assert!(pattern.column_indices().iter().all(|&c| (c as usize) < pattern.columns()));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains(name) && message.len() < 2000, "{message}");
        }
    }
});
