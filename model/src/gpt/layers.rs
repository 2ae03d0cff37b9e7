//! [`Layers`]: how the products of a model's linear layers are computed.

use super::network::Linear;
use crate::config::Config;
use crate::error::Error;
use crate::plans::{Planner, Plans};
use mediswift_engine::{ParamId, Parameters, ops};
use mediswift_kernels::LinearLayer;
use rayon::prelude::*;
use std::collections::HashMap;

/// The linear layers of a model, with copies of their weights in the orders of their products.
pub(crate) struct Layers(HashMap<ParamId, LinearLayer>);

impl Layers {
    /// Plans a layer for each of these weights, with up-to-date copies.
    /// # Errors
    /// If a plan in the configuration is none, or of another precision.
    pub(super) fn new(
        config: &Config,
        parameters: &Parameters,
        weights: impl Iterator<Item = ParamId>,
    ) -> Result<Self, Error> {
        let mut planner = Planner::new(config)?;
        let plan = |weight| {
            let shape = parameters.get(weight).shape;
            let plan = planner.plan(shape)?;
            Ok((weight, planner.layer(shape, plan)))
        };
        let mut layers = Self(weights.map(plan).collect::<Result<_, Error>>()?);
        layers.refresh_all(parameters);
        Ok(layers)
    }

    /// Plans the layers of some weights anew, with up-to-date copies, several at a time.
    /// # Errors
    /// As for [`Layers::new`].
    pub(super) fn replan(
        &mut self,
        config: &Config,
        parameters: &Parameters,
        weights: &[ParamId],
    ) -> Result<(), Error> {
        let mut planner = Planner::new(config)?;
        let plans = weights.iter().map(|&weight| planner.plan(parameters.get(weight).shape));
        let mut plans: HashMap<ParamId, _> =
            weights.iter().copied().zip(plans.collect::<Result<Vec<_>, _>>()?).collect();
        let changed =
            self.0.iter_mut().filter_map(|(id, layer)| Some((id, layer, plans.remove(id)?)));
        let changed: Vec<_> = changed.collect();
        changed.into_par_iter().with_max_len(1).for_each(|(id, layer, plan)| {
            let tensor = parameters.get(*id);
            *layer = planner.layer(tensor.shape, plan);
            layer.refresh(tensor.values);
        });
        Ok(())
    }

    /// Packs the new values of parameter `id`, if a linear layer has copies of it.
    pub fn refresh(&mut self, id: ParamId, values: &[f32]) {
        if let Some(layer) = self.0.get_mut(&id) {
            layer.refresh(values);
        }
    }

    pub(super) fn refresh_all(&mut self, parameters: &Parameters) {
        parameters.iter().for_each(|(id, parameter)| self.refresh(id, parameter.values));
    }

    /// The plans of all sparse layers, as `[kernels]` of a configuration has them.
    pub(super) fn plans(&self) -> Plans {
        let plan = |layer: &LinearLayer| Some((layer.plan_key()?, layer.plan().to_string()));
        self.0.values().filter_map(plan).collect()
    }

    /// The layer of a weight, if it has one.
    pub(super) fn get(&self, weight: ParamId) -> Option<&LinearLayer> {
        self.0.get(&weight)
    }

    /// The operator of a linear layer.
    pub(crate) fn operator(&self, linear: Linear) -> ops::Linear<'_> {
        let Linear { weight, bias } = linear;
        ops::Linear { layer: &self.0[&weight], weight, bias, observer: None }
    }
}
