//! Errors of the library as Python's exceptions, with the same texts.

use std::error::Error as StdError;
use std::io;

use mediswift::data::DataError;
use mediswift::kernels::PatternError;
use mediswift::kernels::isa::IsaError;
use mediswift::kernels::ops::StrategyError;
use mediswift::kernels::precision::UnknownPrecision;
use mediswift::model::Error;
use mediswift::model::error::ErrorKind;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyArithmeticError, PyBlockingIOError, PyFileExistsError, PyFileNotFoundError,
    PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyValueError,
};

/// What becomes an exception.
pub trait IntoException {
    /// The exception.
    fn into_exception(self) -> PyErr;
}

/// An error and its causes, in one line.
fn with_causes(error: &dyn StdError) -> String {
    causes(error).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What led to an error, nearest first.
fn causes(error: &dyn StdError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

impl IntoException for Error {
    fn into_exception(self) -> PyErr {
        if let Error::Data(error) = self {
            return error.into_exception();
        }
        let text = with_causes(&self);
        match self.kind() {
            ErrorKind::NotFound => PyFileNotFoundError::new_err(text),
            ErrorKind::Occupied => PyFileExistsError::new_err(text),
            ErrorKind::Busy => PyBlockingIOError::new_err(text),
            ErrorKind::Io => PyOSError::new_err(text),
            ErrorKind::NonFinite => PyArithmeticError::new_err(text),
            ErrorKind::Memory => PyMemoryError::new_err(text),
            ErrorKind::Stopped => PyKeyboardInterrupt::new_err(text),
            ErrorKind::Ranks => PyRuntimeError::new_err(text),
            _ => PyValueError::new_err(text),
        }
    }
}

impl IntoException for DataError {
    fn into_exception(self) -> PyErr {
        let text = with_causes(&self);
        if let DataError::Interrupted = self {
            return PyKeyboardInterrupt::new_err(text);
        }
        let io = causes(&self).find_map(|cause| cause.downcast_ref::<io::Error>());
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => PyFileNotFoundError::new_err(text),
            Some(_) => PyOSError::new_err(text),
            None => PyValueError::new_err(text),
        }
    }
}

/// Errors that are about a value that was handed over.
macro_rules! values {
    ($($error:ty),+) => {$(
        impl IntoException for $error {
            fn into_exception(self) -> PyErr {
                PyValueError::new_err(with_causes(&self))
            }
        }
    )+};
}

values!(IsaError, PatternError, StrategyError, UnknownPrecision);
