//! The products of a linear layer, one file each, and the list that tests and benchmarks walk.

pub mod csr;
mod gather;
pub mod gemm;
mod layer;
mod list;
pub mod plan;
pub mod sddmm;
pub mod spmm;
pub mod spmv;
pub mod strategy;
pub mod tune;

pub use layer::SparseLayer;
pub use list::{KERNELS, KernelSpec, Prepared, Product};
pub use strategy::{LayerPlan, Strategy, StrategyError};
