//! [`Layer`]: a pattern with a plan, and the products of the weights that it is handed.

use std::path::PathBuf;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mediswift::kernels::isa::IsaKind;
use mediswift::kernels::ops::{Initial, LayerPlan};
use mediswift::kernels::rows::{RowTiles, sum_tokens};
use mediswift::kernels::{InPrecision, Lines, Scratch};
use mediswift::model::plans::{self, Plans};
use mediswift::{LANES, LinearLayer, Precision, SparsePattern};
use numpy::PyArray1;
use pyo3::prelude::*;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::activations::Tiles;
use crate::arrays::{RowArray, RowArrayMut, Rows, RowsMut, check_apart, vector, vector_mut, wrong};
use crate::error::IntoException;
use crate::pattern::Pattern;
use crate::threads::{compute, locked};

/// Tokens on which a plan is tuned.
const TUNING_TOKENS: usize = 512;

/// Elements that one thread compares or copies in a row.
const STRETCH: usize = 1 << 16;

/// The instruction set in use: `MEDISWIFT_ISA`, or the best that this CPU has.
#[pyfunction]
pub fn instruction_set() -> PyResult<&'static str> {
    Ok(active()?.name())
}

/// Reads a file of plans: a dictionary from layers, as `Layer.key` names them, to plans.
#[pyfunction]
pub fn read_plans(path: PathBuf) -> PyResult<Plans> {
    plans::read(&path).map_err(IntoException::into_exception)
}

/// Writes such a file.
#[pyfunction]
pub fn write_plans(path: PathBuf, plans: Plans) -> PyResult<()> {
    for (key, plan) in &plans {
        let named = plan.parse::<LayerPlan>();
        named.map_err(|e| wrong("plans", format!("'{key}': {e}")))?;
    }
    plans::write(&path, &plans).map_err(IntoException::into_exception)
}

/// The instruction set in use.
pub fn active() -> PyResult<IsaKind> {
    IsaKind::active().map_err(IntoException::into_exception)
}

/// A pattern and a plan of the products of its weights `W [rows, columns]`. It holds no weights but those that it
/// multiplied last, packed; others are packed when they come.
#[pyclass(frozen, module = "mediswift._core")]
pub struct Layer {
    pattern: Arc<SparsePattern>,
    plan: LayerPlan,
    state: RwLock<State>,
}

/// A planned layer and the weights that it is packed with.
struct State {
    layer: LinearLayer,
    values: Vec<f32>,
    /// Changes with the values.
    generation: u64,
}

#[pymethods]
impl Layer {
    /// Plans the products of a pattern: `plan` is `auto`, `tuned`, or a name; a name decides on the precision.
    #[new]
    fn new(py: Python<'_>, pattern: &Pattern, precision: &str, plan: &str) -> PyResult<Self> {
        let precision: Precision = precision.parse().map_err(IntoException::into_exception)?;
        let (isa, pattern) = (active()?, Arc::clone(&pattern.0));
        let named = match plan {
            "auto" | "tuned" => None,
            name => Some(name.parse::<LayerPlan>().map_err(IntoException::into_exception)?),
        };
        let (plan, layer) = compute(py, |pool| {
            pool.install(|| {
                let plan = named.unwrap_or_else(|| match plan {
                    "tuned" if pattern.nnz() > 0 => {
                        LayerPlan::measured(precision, isa, &pattern, TUNING_TOKENS)
                    }
                    _ => LayerPlan::of(precision, pattern.density(), isa),
                });
                let layer = LinearLayer::sparse(isa, Arc::clone(&pattern), plan.clone());
                (plan, layer)
            })
        })?;
        let values = vec![0.0; pattern.nnz()];
        let state = RwLock::new(State { layer, values, generation: 0 });
        Ok(Self { pattern, plan, state })
    }

    /// The pattern.
    #[getter]
    fn pattern(&self) -> Pattern {
        Pattern(Arc::clone(&self.pattern))
    }

    /// The plan: `forward/dx/dw`, of 16 bits `precision:forward/dx/dw`.
    #[getter]
    fn plan(&self) -> String {
        self.plan.to_string()
    }

    /// What operands are rounded to.
    #[getter]
    fn precision(&self) -> &'static str {
        self.plan.precision().name()
    }

    /// What files of plans call the layer: `OUTxIN@nnz`.
    #[getter]
    fn key(&self) -> String {
        LayerPlan::key(self.pattern.rows(), self.pattern.columns(), self.pattern.nnz())
    }

    /// A copy of the weights that it is packed with, row by row.
    fn values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        let values = py.detach(|| self.read().values.clone());
        PyArray1::from_vec(py, values)
    }

    /// Packs these weights, row by row.
    fn pack(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let array = vector::<f32>("values", values, Some(self.pattern.nnz()))?;
        let values = array.as_slice()?;
        compute(py, |pool| drop(self.current(pool, Some(values), None)))
    }

    /// y = x · Wᵀ + bias for rows x `[tokens, columns]`, into rows y `[tokens, rows]`: the number of the packed
    /// weights it was made with, if it was, and x as tiles for the way back if they are to be kept.
    #[pyo3(signature = (values, x, y, bias, keep))]
    fn forward(
        &self,
        py: Python<'_>,
        values: Option<&Bound<'_, PyAny>>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        keep: bool,
    ) -> PyResult<(Option<u64>, Option<Tiles>)> {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        check_apart(&[("y", Some(y))], &[Some(x), values, bias])?;
        let values = self.lent(values)?;
        let values = values.as_ref().map(|array| array.as_slice()).transpose()?;
        let bias = bias.map(|bias| vector::<f32>("bias", bias, Some(rows))).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        let x = RowArray::of("x", x, columns)?;
        let tokens = x.tokens();
        let mut y = RowArrayMut::of("y", y, [tokens, rows])?;
        let (x, mut y) = (x.rows()?, y.rows()?);
        let precision = self.plan.precision();
        let initial = bias.map_or(Initial::Zero, Initial::Bias);
        let (generation, tiles) = compute(py, |pool| {
            if let (1, false, Precision::F32) = (tokens, keep, precision)
                && let (Rows::F32(x), RowsMut::F32(y)) = (x, &mut y)
            {
                // A single token needs no packed weights, and no tile for fifteen others.
                let state = self.read();
                let (layer, values) = (&state.layer, values.unwrap_or(&state.values));
                pool.install(|| layer.one_token(values, x, y));
                y.iter_mut().zip(bias.unwrap_or_default()).for_each(|(y, bias)| *y += bias);
                return (None, None);
            }
            let state = self.current(pool, values, None);
            let state = &*state;
            let product = |x: Lines<'_>, y: &mut [f32]| {
                state.layer.forward(&state.values, x, y, initial);
            };
            let tiles = pool.install(|| x.through(precision, [columns, rows], y, product));
            (Some(state.generation), keep.then_some(tiles))
        })?;
        Ok((generation, tiles.map(|tiles| Tiles { tiles, tokens, features: columns })))
    }

    /// The way back from rows dy `[tokens, rows]`, into those of dx `[tokens, columns]`, dw `[nnz]` and the sums of dy,
    /// db `[rows]`, that are asked for. x, which dw needs, is rows or the tiles of a forward product; `generation` is
    /// the number of its weights.
    #[pyo3(signature = (values, generation, dy, x, dx, dw, db))]
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        py: Python<'_>,
        values: Option<&Bound<'_, PyAny>>,
        generation: Option<u64>,
        dy: &Bound<'_, PyAny>,
        x: Option<&Bound<'_, PyAny>>,
        dx: Option<&Bound<'_, PyAny>>,
        dw: Option<&Bound<'_, PyAny>>,
        db: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (rows, columns, nnz) =
            (self.pattern.rows(), self.pattern.columns(), self.pattern.nnz());
        let precision = self.plan.precision();
        check_apart(&[("dx", dx), ("dw", dw), ("db", db)], &[Some(dy), x, values])?;
        let values = self.lent(values)?;
        let values = values.as_ref().map(|array| array.as_slice()).transpose()?;
        let dy = RowArray::of("dy", dy, rows)?;
        let tokens = dy.tokens();
        let kept = x.and_then(|x| x.cast::<Tiles>().ok()).map(|tiles| tiles.get());
        let x = match (x, kept) {
            (Some(x), None) => Some(RowArray::of("x", x, columns)?),
            _ => None,
        };
        if let Some(kept) = kept {
            kept.check("x", columns)?;
        }
        let found = kept.map(|kept| kept.tokens).or(x.as_ref().map(RowArray::tokens));
        if let Some(found) = found.filter(|found| *found != tokens) {
            return Err(wrong("x", format!("has {found} tokens, but dy has {tokens}")));
        }
        if dw.is_some() && found.is_none() {
            return Err(wrong("x", "is missing: the gradient of the weights needs it"));
        }
        let x = x.as_ref().map(|x| x.rows()).transpose()?;
        let mut dx = dx.map(|dx| RowArrayMut::of("dx", dx, [tokens, columns])).transpose()?;
        let dx = dx.as_mut().map(|dx| dx.rows()).transpose()?;
        let mut dw = dw.map(|dw| vector_mut::<f32>("dw", dw, nnz)).transpose()?;
        let dw = dw.as_mut().map(|dw| dw.as_slice_mut()).transpose()?;
        let mut db = db.map(|db| vector_mut::<f32>("db", db, rows)).transpose()?;
        let db = db.as_mut().map(|db| db.as_slice_mut()).transpose()?;
        let dy = dy.rows()?;
        compute(py, |pool| {
            let state = self.current(pool, values.filter(|_| dx.is_some()), generation);
            let state = &*state;
            pool.install(|| {
                let product = |dy: Lines<'_>, dx: &mut [f32]| {
                    state.layer.input_gradient(&state.values, dy, dx, Initial::Zero);
                };
                let dy = match dx {
                    Some(dx) => dy.through(precision, [rows, columns], dx, product),
                    None => dy.tiles(precision, rows),
                };
                if let Some(dw) = dw {
                    dw.par_chunks_mut(STRETCH).for_each(|dw| dw.fill(0.0));
                    let own = x.map(|x| x.tiles(precision, columns));
                    let lines = own.as_ref().or(kept.map(|kept| &kept.tiles)).map(RowTiles::lines);
                    if let Some(lines) = lines {
                        let rounded = in_precision(precision, lines, columns);
                        let x = rounded.as_ref().map_or(lines, InPrecision::lines);
                        state.layer.weight_gradient(dy.lines(), x, dw);
                    }
                }
                if let Some(db) = db {
                    sum_tokens(dy.lines(), db);
                }
            });
        })
    }

    /// The forward product of tiles, which stay tiles.
    #[pyo3(signature = (values, x, bias))]
    fn forward_tiles(
        &self,
        py: Python<'_>,
        values: Option<&Bound<'_, PyAny>>,
        x: &Bound<'_, Tiles>,
        bias: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Tiles> {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        let bias = bias.map(|bias| vector::<f32>("bias", bias, Some(rows))).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        let initial = bias.map_or(Initial::Zero, Initial::Bias);
        x.get().check("x", columns)?;
        self.tiles(py, values, x.get(), rows, |state, x, out| {
            let rounded = in_precision(self.plan.precision(), x, columns);
            let x = rounded.as_ref().map_or(x, InPrecision::lines);
            state.layer.forward(&state.values, x, out, initial);
        })
    }

    /// The input gradient of tiles, which stay tiles.
    #[pyo3(signature = (values, dy))]
    fn input_gradient_tiles(
        &self,
        py: Python<'_>,
        values: Option<&Bound<'_, PyAny>>,
        dy: &Bound<'_, Tiles>,
    ) -> PyResult<Tiles> {
        let (rows, columns) = (self.pattern.rows(), self.pattern.columns());
        dy.get().check("dy", rows)?;
        self.tiles(py, values, dy.get(), columns, |state, dy, out| {
            let rounded = in_precision(self.plan.precision(), dy, rows);
            let dy = rounded.as_ref().map_or(dy, InPrecision::lines);
            state.layer.input_gradient(&state.values, dy, out, Initial::Zero);
        })
    }

    fn __repr__(&self) -> String {
        let (rows, columns, nnz) =
            (self.pattern.rows(), self.pattern.columns(), self.pattern.nnz());
        format!("Layer({rows} × {columns}, {nnz} weights, {})", self.plan)
    }
}

/// Tiles as products of a precision take them, where they are not so already.
fn in_precision(
    precision: Precision,
    lines: Lines<'_>,
    features: usize,
) -> Option<InPrecision<'_>> {
    match lines {
        Lines::F32(tiles) if precision != Precision::F32 && features > 0 => {
            Some(InPrecision::new(precision, tiles, features))
        }
        _ => None,
    }
}

impl Layer {
    /// Weights that a caller hands over, if it does.
    fn lent<'py>(
        &self,
        values: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<numpy::PyReadonlyArray1<'py, f32>>> {
        values.map(|values| vector::<f32>("values", values, Some(self.pattern.nnz()))).transpose()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        locked(|| self.state.try_read(), || self.state.read())
    }

    /// The layer packed with these weights, or with whatever it is packed with; nothing is done if the packed ones
    /// are still those of `generation`.
    fn current(
        &self,
        pool: &ThreadPool,
        values: Option<&[f32]>,
        generation: Option<u64>,
    ) -> RwLockReadGuard<'_, State> {
        let state = self.read();
        let Some(values) = values.filter(|_| generation != Some(state.generation)) else {
            return state;
        };
        if state.generation > 0 && pool.install(|| same(values, &state.values)) {
            return state;
        }
        drop(state);
        let mut state = locked(|| self.state.try_write(), || self.state.write());
        let State { layer, values: held, generation } = &mut *state;
        *generation += 1;
        pool.install(|| {
            let stretches = held.par_chunks_mut(STRETCH).zip(values.par_chunks(STRETCH));
            stretches.for_each(|(held, values)| held.copy_from_slice(values));
            layer.refresh(held);
        });
        RwLockWriteGuard::downgrade(state)
    }

    /// One product from tiles to tiles of so many features.
    fn tiles(
        &self,
        py: Python<'_>,
        values: Option<&Bound<'_, PyAny>>,
        x: &Tiles,
        features: usize,
        product: impl Fn(&State, Lines<'_>, &mut [f32]) + Send + Sync,
    ) -> PyResult<Tiles> {
        let values = self.lent(values)?;
        let values = values.as_ref().map(|array| array.as_slice()).transpose()?;
        let tokens = x.tokens;
        let tiles = compute(py, |pool| {
            let state = self.current(pool, values, None);
            let state = &*state;
            pool.install(|| {
                let mut out = Scratch::take(tokens.div_ceil(LANES) * features * LANES);
                product(state, x.tiles.lines(), &mut out);
                // Padding stays what the bias made of it: no row is read from it, and no sum taken over it.
                RowTiles::F32(out)
            })
        })?;
        Ok(Tiles { tiles, tokens, features })
    }
}

/// Whether the bits are the same.
fn same(a: &[f32], b: &[f32]) -> bool {
    let stretches = a.par_chunks(STRETCH).zip(b.par_chunks(STRETCH));
    stretches
        .all(|(a, b)| bytemuck::cast_slice::<f32, u32>(a) == bytemuck::cast_slice::<f32, u32>(b))
}
