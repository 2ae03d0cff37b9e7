//! Numbers of foreign tensors.

use crate::error::Error;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mediswift_kernels::AlignedBuffer;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use std::io::Read;
use std::path::Path;

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
