//! Numbers of foreign tensors, of 32 or 16 bits.

use crate::error::Error;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mediswift_engine::Tensor;
use mediswift_kernels::{AlignedBuffer, Precision};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use std::io::Read;
use std::path::Path;

/// The type of a precision's numbers in safetensors.
pub(super) fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::BF16,
        Precision::F16 => Dtype::F16,
    }
}

/// The bytes of numbers, each rounded to the nearest of a precision.
pub(super) fn bytes_in(precision: Precision, values: &[f32]) -> Vec<u8> {
    match precision {
        Precision::F32 => bytemuck::cast_slice(values).to_vec(),
        Precision::Bf16 => {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytemuck::cast_slice(&halves).to_vec()
        }
        Precision::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytemuck::cast_slice(&halves).to_vec()
        }
    }
}

/// # Errors
/// If a weight of tensors of the run `run` would round to infinity in the precision beside it.
pub(super) fn check_range<'a>(
    run: &Path,
    mut tensors: impl Iterator<Item = (Tensor<'a>, Precision)>,
) -> Result<(), Error> {
    let overflows = |(tensor, precision): &(Tensor<'_>, Precision)| {
        tensor.values.iter().any(|&x| precision.round(x).is_infinite())
    };
    match tensors.find(overflows) {
        Some((tensor, precision)) => {
            let problem = format!("'{}' has a weight too large for {precision}", tensor.name);
            Err(Error::incompatible(run, format!("{problem}: export it in f32")))
        }
        None => Ok(()),
    }
}

/// Reads finite numbers of any floating-point type of up to 32 bits.
pub(super) fn read_floats(
    path: &Path,
    name: &str,
    info: &TensorInfo,
    stream: &mut dyn Read,
) -> Result<AlignedBuffer, Error> {
    let count = info.shape.iter().product();
    let mut values = AlignedBuffer::zeros(count);
    let mut fill = |bytes: &mut [u8]| stream.read_exact(bytes).map_err(Error::io("read", path));
    match info.dtype {
        Dtype::F32 => fill(bytemuck::cast_slice_mut(&mut values))?,
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; count];
            fill(bytemuck::cast_slice_mut(&mut halves))?;
            halves.convert_to_f32_slice(&mut values);
        }
        Dtype::BF16 => {
            let mut halves = vec![bf16::ZERO; count];
            fill(bytemuck::cast_slice_mut(&mut halves))?;
            halves.convert_to_f32_slice(&mut values);
        }
        other => {
            let problem = format!("tensor '{name}' has type {other}: expected F32, F16 or BF16");
            return Err(Error::malformed(path, problem));
        }
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => {
            let problem = format!("tensor '{name}' is {} at element {at}", values[at]);
            Err(Error::malformed(path, problem))
        }
        None => Ok(values),
    }
}
