//! [`weights_hash`]: one number for a model.

use mediswift_engine::{Parameters, Shape};

/// BLAKE3, in hexadecimal, over all parameters in the order of their names: name, extents, mask and
/// values, each preceded by its length. Equal for equal models, whatever computed them.
pub fn weights_hash(parameters: &Parameters) -> String {
    let mut sorted: Vec<_> = parameters.iter().map(|(_, parameter)| parameter).collect();
    sorted.sort_by(|a, b| a.name.cmp(b.name));
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for parameter in sorted {
        part(parameter.name.as_bytes());
        let extents: Vec<u64> = parameter.shape.extents().iter().map(|&n| n as u64).collect();
        part(bytemuck::cast_slice(&extents));
        if let Shape::Sparse(pattern) = &parameter.shape {
            part(bytemuck::cast_slice(pattern.row_offsets()));
            part(bytemuck::cast_slice(pattern.column_indices()));
        }
        part(bytemuck::cast_slice(parameter.values));
    }
    hasher.finalize().to_hex().to_string()
}
