//! The products of a linear layer, and the list that tests and benchmarks walk.

mod arithmetic;
pub(crate) mod extent;
mod gather;
pub mod gemm;
mod layer;
mod list;
mod plan;
mod product;
mod spmv;
mod strategy;
mod tune;

pub use arithmetic::{Arithmetic, Numbers, Pairs, Words};
pub use layer::LinearLayer;
pub use list::{KernelSpec, Prepared, kernels};
pub use plan::LayerPlan;
pub use product::{Initial, Product};
pub use spmv::gemv;
pub use strategy::{Strategy, StrategyError};
