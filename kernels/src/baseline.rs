//! Dense products by others: what sparse kernels have to beat.
//!
//! Operands are row-major matrices `[feature][token]`, the layout that dense libraries like best. The
//! `gemm` crate is always there; any library with the C interface of BLAS (MKL, OpenBLAS, BLIS) can
//! be loaded at run time, and multiplies bf16 too where it says so.
//!
//! Where AVX2 is forced, the `gemm` crate uses AVX2 as well; otherwise it takes the best that the CPU
//! has. A loaded library chooses by itself; its own environment variables limit it (`MKL_ENABLE_INSTRUCTIONS=AVX2`, `OPENBLAS_CORETYPE=Haswell`).

use crate::isa::IsaKind;
use crate::ops::extent::size;
use gemm_common::Parallelism;
use half::bf16;
use std::ffi::c_int;
use std::path::{Path, PathBuf};

/// A matrix in memory: element (r, c) lies at `r · row_stride + c · column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix.
    /// # Panics
    /// If `data` does not hold `rows · columns` elements.
    #[track_caller]
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), size(&[rows, columns]), "matrix data and shape disagree");
        Self { data, rows, columns, transposed: false }
    }

    /// The transposed matrix, in the same memory.
    pub fn transposed(self) -> Self {
        let Self { data, rows, columns, transposed } = self;
        Self { data, rows: columns, columns: rows, transposed: !transposed }
    }

    /// Distances of neighbouring rows and columns.
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (1, self.rows as isize) } else { (self.columns as isize, 1) }
    }
}

/// A library that multiplies dense matrices.
pub enum Baseline {
    /// The `gemm` crate.
    GemmCrate,
    /// A library with `cblas_sgemm`.
    Blas(Blas),
}

impl Baseline {
    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::GemmCrate => "gemm crate".into(),
            Self::Blas(blas) => blas.name.clone(),
        }
    }

    /// Whether it has a product of bf16.
    pub fn multiplies_bf16(&self) -> bool {
        matches!(self, Self::Blas(Blas { bf16: Some(_), .. }))
    }

    /// C = A · B of bf16 with row-major C of `f32`, by the threads of the library.
    /// # Panics
    /// If the shapes disagree or it [has none](Self::multiplies_bf16).
    #[track_caller]
    pub fn multiply_bf16(&self, a: Matrix<'_, bf16>, b: Matrix<'_, bf16>, c: &mut [f32]) {
        assert_eq!(a.columns, b.rows, "inner extents disagree");
        assert_eq!(c.len(), size(&[a.rows, b.columns]), "C and its shape disagree");
        let Self::Blas(Blas { bf16: Some(gemm), .. }) = self else {
            panic!("{} has no product of bf16", self.name())
        };
        multiply(*gemm, a, b, c);
    }

    /// C = A · B with row-major C, on the current pool's threads.
    /// # Panics
    /// If the shapes disagree or the machine lacks `isa`.
    #[track_caller]
    pub fn multiply(&self, isa: IsaKind, a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32]) {
        assert_eq!(a.columns, b.rows, "inner extents disagree");
        assert_eq!(c.len(), size(&[a.rows, b.columns]), "C and its shape disagree");
        assert!(isa.is_available(), "this CPU lacks {isa}");
        match self {
            Self::GemmCrate => gemm_crate(isa, a, b, c),
            Self::Blas(blas) => multiply(blas.sgemm, a, b, c),
        }
    }
}

fn gemm_crate(isa: IsaKind, a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32]) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    match isa {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => gemm_avx2(a, b, c, parallelism),
        _ => gemm_best(a, b, c, parallelism),
    }
}

/// The `gemm` crate's choice for this CPU. C is column-major there, so this is Cᵀ = Bᵀ · Aᵀ.
fn gemm_best(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], parallelism: Parallelism) {
    let ((a_rows, a_columns), (b_rows, b_columns)) = (a.strides(), b.strides());
    // SAFETY: `multiply` has checked that the slices hold matrices of these shapes, and the strides
    // stay inside them.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            b.columns,
            a.rows,
            a.columns,
            c.as_mut_ptr(),
            b.columns as isize,
            1,
            false,
            b.data.as_ptr(),
            b_rows,
            b_columns,
            a.data.as_ptr(),
            a_rows,
            a_columns,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The same by its AVX2 kernels, which are reached one level down.
#[cfg(target_arch = "x86_64")]
fn gemm_avx2(a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32], parallelism: Parallelism) {
    use gemm_common::simd::{MixedSimd, V3};
    use gemm_f32::microkernel::fma::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
    const LANES: usize = 8;
    const MR: usize = MR_DIV_N * LANES;
    let ((a_rows, a_columns), (b_rows, b_columns)) = (a.strides(), b.strides());
    let simd = <V3 as MixedSimd<f32, f32, f32, f32>>::try_new().expect("the CPU has AVX2");
    // SAFETY: as in `gemm_best`.
    unsafe {
        gemm_common::gemm::gemm_basic_generic::<_, f32, LANES, MR, NR, MR_DIV_N, H_M, H_N>(
            simd,
            b.columns,
            a.rows,
            a.columns,
            c.as_mut_ptr(),
            b.columns as isize,
            1,
            false,
            b.data.as_ptr(),
            b_rows,
            b_columns,
            a.data.as_ptr(),
            a_rows,
            a_columns,
            0.0,
            1.0,
            false,
            false,
            false,
            |a, b, c| a * b + c,
            &UKR,
            &H_UKR,
            false,
            parallelism,
        );
    }
}

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlasError {
    /// The system cannot load it.
    #[error("{}: cannot be loaded: {cause}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The system's reason.
        cause: libloading::Error,
    },
    /// It is a library, but no BLAS with the C interface.
    #[error("{}: lacks cblas_sgemm; name a BLAS with the C interface", path.display())]
    NoGemm {
        /// The library.
        path: PathBuf,
    },
}

/// `cblas_sgemm` with 32-bit integers, or the like of it whose operands are `T`.
type Gemm<T> = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    f32,
    *const T,
    c_int,
    *const T,
    c_int,
    f32,
    *mut f32,
    c_int,
);

/// The names of products of bf16 with sums of `f32`: OpenBLAS's, where it was built with it, and MKL's.
const BF16_GEMMS: [&[u8]; 2] = [b"cblas_sbgemm\0", b"cblas_gemm_bf16bf16f32\0"];

/// A BLAS loaded at run time.
pub struct Blas {
    name: String,
    sgemm: Gemm<f32>,
    bf16: Option<Gemm<bf16>>,
    /// Keeps the code in memory.
    _library: libloading::Library,
}

impl Blas {
    /// Loads a library and tells it how many threads to use, as far as it can be told.
    /// # Errors
    /// If it cannot be loaded or lacks `cblas_sgemm`.
    pub fn load(path: &Path, threads: usize) -> Result<Self, BlasError> {
        // SAFETY: loading runs the library's initialisers; whoever names a library to run trusts it.
        let library = unsafe { libloading::Library::new(path) }
            .map_err(|cause| BlasError::Load { path: path.into(), cause })?;
        // SAFETY: the symbol is the C interface of BLAS, whose signature is `Gemm`.
        let sgemm = unsafe { library.get::<Gemm<f32>>(b"cblas_sgemm\0") }.map(|symbol| *symbol);
        let Ok(sgemm) = sgemm else { return Err(BlasError::NoGemm { path: path.into() }) };
        let bf16 = BF16_GEMMS.iter().find_map(|name| {
            // SAFETY: both have the signature of `cblas_sgemm`, with pointers to bf16 for the operands.
            unsafe { library.get::<Gemm<bf16>>(*name) }.ok().map(|symbol| *symbol)
        });
        for setter in [&b"openblas_set_num_threads\0"[..], b"MKL_Set_Num_Threads\0"] {
            // SAFETY: both setters take one C integer.
            unsafe {
                if let Ok(set) = library.get::<unsafe extern "C" fn(c_int)>(setter) {
                    set(threads as c_int);
                }
            }
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, sgemm, bf16, _library: library })
    }
}

/// C = A · B of matrices that the caller has checked.
fn multiply<T>(gemm: Gemm<T>, a: Matrix<'_, T>, b: Matrix<'_, T>, c: &mut [f32]) {
    const ROW_MAJOR: c_int = 101;
    let operation = |m: &Matrix<'_, T>| if m.transposed { 112 } else { 111 };
    let leading = |m: &Matrix<'_, T>| {
        let (rows, columns) = m.strides();
        int(rows.max(columns) as usize)
    };
    let (m, n, k) = (int(a.rows), int(b.columns), int(a.columns));
    // SAFETY: the caller has checked that the slices hold matrices of these shapes; the leading
    // extents are those of the row-major memory.
    unsafe {
        gemm(
            ROW_MAJOR,
            operation(&a),
            operation(&b),
            m,
            n,
            k,
            1.0,
            a.data.as_ptr(),
            leading(&a),
            b.data.as_ptr(),
            leading(&b),
            0.0,
            c.as_mut_ptr(),
            n,
        );
    }
}

/// An extent as BLAS has it.
#[track_caller]
fn int(extent: usize) -> c_int {
    c_int::try_from(extent).expect("an extent below 2³¹")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_definition() {
        let (m, n, k) = (37, 50, 23);
        let a: Vec<f32> = (0..m * k).map(|i| (i % 13) as f32 - 6.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut at = vec![0.0; m * k];
        for r in 0..m {
            for i in 0..k {
                at[i * m + r] = a[r * k + i];
            }
        }
        for isa in IsaKind::available() {
            for a in [Matrix::new(&a, m, k), Matrix::new(&at, k, m).transposed()] {
                let mut c = vec![f32::NAN; m * n];
                Baseline::GemmCrate.multiply(isa, a, Matrix::new(&b, k, n), &mut c);
                for r in 0..m {
                    for t in 0..n {
                        let (row, column) = a.strides();
                        let left = |i: usize| a.data[r * row as usize + i * column as usize];
                        let want: f32 = (0..k).map(|i| left(i) * b[i * n + t]).sum();
                        assert_eq!(c[r * n + t], want, "{isa} at {r}, {t}");
                    }
                }
            }
        }
    }

    /// The interface of BLAS, by the definition.
    unsafe extern "C" fn by_the_definition<T: Copy + Into<f32>>(
        order: c_int,
        a_operation: c_int,
        b_operation: c_int,
        m: c_int,
        n: c_int,
        k: c_int,
        alpha: f32,
        a: *const T,
        lda: c_int,
        b: *const T,
        ldb: c_int,
        beta: f32,
        c: *mut f32,
        ldc: c_int,
    ) {
        assert_eq!((order, alpha, beta), (101, 1.0, 0.0));
        let element = |from: *const T, operation, leading, row, column| {
            let (row, column) = if operation == 112 { (column, row) } else { (row, column) };
            // SAFETY: that is where a caller of BLAS has its matrices.
            unsafe { (*from.offset((row * leading + column) as isize)).into() }
        };
        for row in 0..m {
            for column in 0..n {
                let left = |i| -> f32 { element(a, a_operation, lda, row, i) };
                let right = |i| -> f32 { element(b, b_operation, ldb, i, column) };
                // SAFETY: as above.
                unsafe {
                    *c.offset((row * ldc + column) as isize) =
                        (0..k).map(|i| left(i) * right(i)).sum();
                }
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_library_meets_matrices_where_they_lie() {
        let library = Baseline::Blas(Blas {
            name: "definition".into(),
            sgemm: by_the_definition::<f32>,
            bf16: Some(by_the_definition::<bf16>),
            _library: libloading::os::unix::Library::this().into(),
        });
        assert!(library.multiplies_bf16() && !Baseline::GemmCrate.multiplies_bf16());
        let (m, n, k) = (3, 5, 4);
        let of = |count: usize| (0..count).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
        let half = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<bf16>>();
        let (a, b) = (of(m * k), of(k * n));
        let (a16, b16) = (half(&a), half(&b));
        let mut want = vec![f32::NAN; m * n];
        let mut c = vec![f32::NAN; m * n];
        let isa = IsaKind::Scalar;
        // A · B, A stored as [k, m], and B as [n, k].
        for (at, bt) in [(false, false), (true, false), (false, true)] {
            let a_shape = if at { (k, m) } else { (m, k) };
            let b_shape = if bt { (n, k) } else { (k, n) };
            let turn = |turned| if turned { Matrix::transposed } else { |matrix| matrix };
            let turn16 = |turned| if turned { Matrix::transposed } else { |matrix| matrix };
            let left = turn(at)(Matrix::new(&a, a_shape.0, a_shape.1));
            let right = turn(bt)(Matrix::new(&b, b_shape.0, b_shape.1));
            Baseline::GemmCrate.multiply(isa, left, right, &mut want);
            library.multiply(isa, left, right, &mut c);
            assert_eq!(c, want);
            c.fill(f32::NAN);
            let left = turn16(at)(Matrix::new(&a16, a_shape.0, a_shape.1));
            let right = turn16(bt)(Matrix::new(&b16, b_shape.0, b_shape.1));
            library.multiply_bf16(left, right, &mut c);
            assert_eq!(c, want);
        }
    }

    #[test]
    fn a_library_that_is_none_is_an_error() {
        let error = Blas::load(Path::new("no-such-library.so"), 1).err().unwrap().to_string();
        assert!(error.contains("no-such-library.so: cannot be loaded"), "{error}");
    }
}
