//! NumPy arrays as slices: contiguous, aligned, of an element that is known. Python's side makes them so.

use half::{bf16, f16};
use mediswift::Precision;
use mediswift::kernels::Lines;
use mediswift::kernels::rows::{RowElement, RowTiles, through_tiles, tiles_to_rows};
use ndarray::{Dimension, Ix2};
use numpy::{
    Element, PyArray, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1,
    PyReadwriteArray, PyReadwriteArray1, PyUntypedArray, PyUntypedArrayMethods, ndarray,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use std::ops::Range;

use crate::threads::compute;

/// Elements of rows `[token][feature]`.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// The upper half of those.
    Bf16(&'a [bf16]),
    /// IEEE's half precision.
    F16(&'a [f16]),
}

impl Rows<'_> {
    /// The same as tiles for products of a precision.
    pub fn tiles(self, precision: Precision, features: usize) -> RowTiles {
        match self {
            Self::F32(rows) => RowTiles::new(precision, rows, features),
            Self::Bf16(rows) => RowTiles::new(precision, rows, features),
            Self::F16(rows) => RowTiles::new(precision, rows, features),
        }
    }

    /// The same, and on the way what `product` makes of them, as the rows of y.
    pub fn through(
        self,
        precision: Precision,
        features: [usize; 2],
        y: RowsMut<'_>,
        product: impl Fn(Lines<'_>, &mut [f32]) + Sync,
    ) -> RowTiles {
        match self {
            Self::F32(rows) => y.made_of(precision, features, rows, product),
            Self::Bf16(rows) => y.made_of(precision, features, rows, product),
            Self::F16(rows) => y.made_of(precision, features, rows, product),
        }
    }
}

/// Elements of rows, to be written.
#[derive(Debug)]
pub enum RowsMut<'a> {
    /// 32 bits.
    F32(&'a mut [f32]),
    /// The upper half of those.
    Bf16(&'a mut [bf16]),
    /// IEEE's half precision.
    F16(&'a mut [f16]),
}

impl RowsMut<'_> {
    /// Takes what tiles hold.
    pub fn take(self, tiles: &[f32], features: usize) {
        match self {
            Self::F32(rows) => tiles_to_rows(tiles, features, rows),
            Self::Bf16(rows) => tiles_to_rows(tiles, features, rows),
            Self::F16(rows) => tiles_to_rows(tiles, features, rows),
        }
    }

    /// Takes what `product` makes of the rows of x, which are returned as tiles.
    fn made_of<E: RowElement>(
        self,
        precision: Precision,
        [inputs, outputs]: [usize; 2],
        x: &[E],
        product: impl Fn(Lines<'_>, &mut [f32]) + Sync,
    ) -> RowTiles {
        match self {
            Self::F32(y) => through_tiles(precision, x, inputs, y, outputs, product),
            Self::Bf16(y) => through_tiles(precision, x, inputs, y, outputs, product),
            Self::F16(y) => through_tiles(precision, x, inputs, y, outputs, product),
        }
    }
}

/// An array of rows, lent for reading; bits of bf16 come as `uint16`.
pub enum RowArray<'py> {
    F32(PyReadonlyArray<'py, f32, Ix2>),
    Bf16(PyReadonlyArray<'py, u16, Ix2>),
    F16(PyReadonlyArray<'py, f16, Ix2>),
}

impl<'py> RowArray<'py> {
    /// Borrows `[tokens, features]` numbers.
    /// # Errors
    /// If the array is something else, or lent for writing.
    pub fn of(name: &str, array: &Bound<'py, PyAny>, features: usize) -> PyResult<Self> {
        let plain = plain::<Ix2>(name, array)?;
        let found = plain.shape()[1];
        if found != features {
            return Err(wrong(name, format!("has {found} features, but must have {features}")));
        }
        match kind(name, &plain)? {
            Kind::F32 => read(name, array).map(Self::F32),
            Kind::Bf16 => read(name, array).map(Self::Bf16),
            Kind::F16 => read(name, array).map(Self::F16),
        }
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        match self {
            Self::F32(array) => array.shape()[0],
            Self::Bf16(array) => array.shape()[0],
            Self::F16(array) => array.shape()[0],
        }
    }

    /// The elements.
    pub fn rows(&self) -> PyResult<Rows<'_>> {
        Ok(match self {
            Self::F32(array) => Rows::F32(array.as_slice()?),
            Self::Bf16(array) => Rows::Bf16(bytemuck::cast_slice(array.as_slice()?)),
            Self::F16(array) => Rows::F16(array.as_slice()?),
        })
    }
}

/// An array of rows, lent for writing.
pub enum RowArrayMut<'py> {
    F32(PyReadwriteArray<'py, f32, Ix2>),
    Bf16(PyReadwriteArray<'py, u16, Ix2>),
    F16(PyReadwriteArray<'py, f16, Ix2>),
}

impl<'py> RowArrayMut<'py> {
    /// Borrows an array of those extents.
    /// # Errors
    /// If it has others or other elements, is read-only, or lent already.
    pub fn of(name: &str, array: &Bound<'py, PyAny>, shape: [usize; 2]) -> PyResult<Self> {
        let plain = plain::<Ix2>(name, array)?;
        if plain.shape() != shape {
            let found = plain.shape();
            return Err(wrong(name, format!("has shape {found:?}, but must have {shape:?}")));
        }
        match kind(name, &plain)? {
            Kind::F32 => write(name, array).map(Self::F32),
            Kind::Bf16 => write(name, array).map(Self::Bf16),
            Kind::F16 => write(name, array).map(Self::F16),
        }
    }

    /// The elements.
    pub fn rows(&mut self) -> PyResult<RowsMut<'_>> {
        Ok(match self {
            Self::F32(array) => RowsMut::F32(array.as_slice_mut()?),
            Self::Bf16(array) => RowsMut::Bf16(bytemuck::cast_slice_mut(array.as_slice_mut()?)),
            Self::F16(array) => RowsMut::F16(array.as_slice_mut()?),
        })
    }
}

/// Borrows `len` elements in one dimension.
/// # Errors
/// If the array is something else, or lent for writing.
pub fn vector<'py, E: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
    len: Option<usize>,
) -> PyResult<PyReadonlyArray1<'py, E>> {
    check_len(name, array, len)?;
    read(name, array)
}

/// Borrows `len` elements in one dimension for writing.
/// # Errors
/// If the array is something else, read-only, or lent already.
pub fn vector_mut<'py, E: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
    len: usize,
) -> PyResult<PyReadwriteArray1<'py, E>> {
    check_len(name, array, Some(len))?;
    write(name, array)
}

/// Integers of 64 bits as such of 32.
/// # Errors
/// If the array is something else, or one of them is negative or too large.
pub fn narrowed(name: &str, array: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let lent = vector::<i64>(name, array, None)?;
    let narrow = |(at, &x): (usize, &i64)| {
        u32::try_from(x).map_err(|_| {
            let most = u32::MAX;
            wrong(name, format!("is {x} at {at}, but must lie between 0 and {most}"))
        })
    };
    let numbers = lent.as_slice()?;
    compute(array.py(), |_| numbers.iter().enumerate().map(narrow).collect())?
}

/// Borrows a matrix.
/// # Errors
/// If the array is something else, or lent for writing.
pub fn matrix<'py, E: Element>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray<'py, E, Ix2>> {
    plain::<Ix2>(name, array)?;
    read(name, array)
}

/// An argument that is not what it must be.
pub fn wrong(name: &str, problem: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{name}: {problem}"))
}

fn check_len(name: &str, array: &Bound<'_, PyAny>, len: Option<usize>) -> PyResult<()> {
    let found = plain::<ndarray::Ix1>(name, array)?.len();
    match len {
        Some(len) if len != found => {
            Err(wrong(name, format!("has {found} elements, but must have {len}")))
        }
        _ => Ok(()),
    }
}

/// An array of that many dimensions whose elements follow each other.
fn plain<'py, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let Ok(array) = array.cast::<PyUntypedArray>() else {
        let found = array.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "{name}: is a {found}, but must be a NumPy array"
        )));
    };
    let (found, needed) = (array.ndim(), D::NDIM.unwrap_or(0));
    if found != needed {
        return Err(wrong(name, format!("has {found} dimensions, but must have {needed}")));
    }
    if !array.is_c_contiguous() || !array.is_aligned() {
        let problem = "is not contiguous: numpy.ascontiguousarray makes a copy that is";
        return Err(wrong(name, problem));
    }
    Ok(array.clone())
}

enum Kind {
    F32,
    Bf16,
    F16,
}

fn kind(name: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<Kind> {
    let (py, dtype) = (array.py(), array.dtype());
    if dtype.is_equiv_to(&numpy::dtype::<f32>(py)) {
        Ok(Kind::F32)
    } else if dtype.is_equiv_to(&numpy::dtype::<u16>(py)) {
        Ok(Kind::Bf16)
    } else if dtype.is_equiv_to(&numpy::dtype::<f16>(py)) {
        Ok(Kind::F16)
    } else {
        Err(wrong(name, format!("has elements of {dtype}, but must have float32 or float16")))
    }
}

fn typed<'py, E: Element, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray<E, D>>> {
    let Ok(typed) = array.cast::<PyArray<E, D>>() else {
        let (found, needed) = (array.getattr("dtype")?, numpy::dtype::<E>(array.py()));
        return Err(wrong(name, format!("has elements of {found}, but must have {needed}")));
    };
    Ok(typed.clone())
}

fn read<'py, E: Element, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadonlyArray<'py, E, D>> {
    let lent = typed(name, array)?.try_readonly();
    lent.map_err(|_| wrong(name, "another call writes to it, or this one would"))
}

fn write<'py, E: Element, D: Dimension>(
    name: &str,
    array: &Bound<'py, PyAny>,
) -> PyResult<PyReadwriteArray<'py, E, D>> {
    typed(name, array)?.try_readwrite().map_err(|e| match e {
        numpy::BorrowError::NotWriteable => wrong(name, "is read-only"),
        _ => wrong(name, "shares its memory with what another call, or this one, uses"),
    })
}

/// Refuses results that share memory with operands, or with each other. Owners alone do not tell: DLPack and buffers
/// make several arrays of one memory.
pub fn check_apart(
    results: &[(&str, Option<&Bound<'_, PyAny>>)],
    operands: &[Option<&Bound<'_, PyAny>>],
) -> PyResult<()> {
    let mut taken = Vec::new();
    for operand in operands.iter().flatten() {
        taken.extend(place(operand)?);
    }
    for (name, result) in results {
        let Some(place) = result.map(place).transpose()?.flatten() else { continue };
        if taken
            .iter()
            .any(|other: &Range<usize>| other.start < place.end && place.start < other.end)
        {
            return Err(wrong(name, "shares its memory with what another call, or this one, uses"));
        }
        taken.push(place);
    }
    Ok(())
}

/// Where a contiguous array lies, if it is an array.
fn place(array: &Bound<'_, PyAny>) -> PyResult<Option<Range<usize>>> {
    let Ok(array) = array.cast::<PyUntypedArray>() else { return Ok(None) };
    let data = array.getattr("__array_interface__")?.get_item("data")?;
    let (start, len): (usize, usize) =
        (data.get_item(0)?.extract()?, array.getattr("nbytes")?.extract()?);
    Ok(Some(start..start + len))
}
