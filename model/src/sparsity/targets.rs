//! [`Targets`]: how sparse each layer is to be.

use super::schedule::Distribution;
use super::weights::{LinearWeight, linear_weights};
use crate::config::{ModelConfig, SparsityConfig};
use glob::Pattern;

/// The sparsities that the layers of a model are to have in the end.
///
/// A layer that a group names has the group's. The others share what the settings want of all of them: all the
/// same, or (Erdős–Rényi) densities ε · (outputs + inputs) / (outputs · inputs), with the ε that leaves as many
/// weights. Layers that would be denser than dense are dense, and ε is larger for the rest. Of a joint
/// projection, each part is a layer of its own.
pub(crate) struct Targets<'a> {
    config: &'a SparsityConfig,
    groups: Vec<(Vec<Pattern>, f64)>,
    /// ε, unless the distribution is uniform.
    scale: Option<f64>,
}

impl<'a> Targets<'a> {
    /// Those of a model of that size.
    pub fn new(config: &'a SparsityConfig, size: &ModelConfig) -> Self {
        let groups = config.groups.iter().map(|group| {
            let patterns = group.param_filter.iter().filter_map(|text| Pattern::new(text).ok());
            (patterns.collect(), group.sparsity)
        });
        let mut targets = Self { config, groups: groups.collect(), scale: None };
        if config.distribution != Distribution::Uniform && config.sparsity > 0.0 {
            targets.scale = Some(targets.scale_of(size));
        }
        targets
    }

    /// The sparsity that a weight is to have.
    pub fn of(&self, weight: &LinearWeight) -> f64 {
        match (self.of_group(&weight.name), self.scale) {
            (Some(sparsity), _) => sparsity,
            (None, None) => self.config.sparsity,
            (None, Some(scale)) => 1.0 - (scale * share(weight)).min(1.0),
        }
    }

    /// The sparsity of the last group that matches a name.
    fn of_group(&self, name: &str) -> Option<f64> {
        let matches =
            |(patterns, _): &&(Vec<Pattern>, f64)| patterns.iter().any(|p| p.matches(name));
        self.groups.iter().rev().find(matches).map(|(_, sparsity)| *sparsity)
    }

    /// ε: layer after layer becomes dense, those with the largest share first, until none is too dense.
    fn scale_of(&self, size: &ModelConfig) -> f64 {
        let free = linear_weights(size).filter(|weight| self.of_group(&weight.name).is_none());
        let mut layers: Vec<(f64, f64)> =
            free.map(|weight| (share(&weight), weight.len() as f64)).collect();
        layers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = layers.iter().map(|(_, len)| len).sum();
        let mut left = all * (1.0 - self.config.sparsity);
        let mut shares: f64 = layers.iter().map(|(share, len)| share * len).sum();
        while let Some(&(share, len)) = layers.last() {
            let scale = left / shares;
            if scale * share <= 1.0 {
                return scale;
            }
            layers.pop();
            (left, shares) = (left - len, shares - share * len);
        }
        0.0
    }
}

/// (outputs + inputs) / (outputs · inputs) of each of a weight's parts.
fn share(weight: &LinearWeight) -> f64 {
    let (outputs, inputs) = ((weight.rows / weight.parts) as f64, weight.columns as f64);
    (outputs + inputs) / (outputs * inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Kept weights and densities of the first block's layers.
    fn of(assignments: &[&str]) -> (f64, Vec<f64>) {
        let mut config = Config::from_preset("tiny").unwrap();
        assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
        let targets = Targets::new(&config.sparsity, &config.model);
        let weights: Vec<LinearWeight> = linear_weights(&config.model).collect();
        let kept = |weight: &LinearWeight| weight.len() as f64 * (1.0 - targets.of(weight));
        let all: usize = weights.iter().map(LinearWeight::len).sum();
        let left = weights.iter().map(kept).sum::<f64>() / all as f64;
        (left, weights[..4].iter().map(|weight| 1.0 - targets.of(weight)).collect())
    }

    #[test]
    fn small_layers_are_denser_and_the_whole_is_what_was_wanted() {
        for distribution in ["er", "erk"] {
            let name = format!("sparsity.distribution={distribution}");
            // d × d has 2 / d, 4d × d has 1.25 / d; a third of the weights are of the first kind.
            let (left, densities) = of(&[&name, "sparsity.sparsity=0.75"]);
            assert!((left - 0.25).abs() < 1e-9, "{left}");
            let expected = [1.0 / 3.0, 1.0 / 3.0, 5.0 / 24.0, 5.0 / 24.0];
            assert!(
                densities.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9),
                "{densities:?}"
            );
            // Too dense for the small ones: the large ones keep the rest.
            let (left, densities) = of(&[&name, "sparsity.sparsity=0.2"]);
            assert!((left - 0.8).abs() < 1e-9, "{left}");
            assert!((densities[0] - 1.0).abs() < 1e-12 && (densities[2] - 0.7).abs() < 1e-9);
            assert_eq!(of(&[&name]).1, [1.0; 4]);
        }
    }

    #[test]
    fn groups_have_their_own_and_the_rest_is_shared_out() {
        let groups = "sparsity.groups=[{param_filter=['*.mlp.*'], sparsity=0.9}]";
        let (left, densities) = of(&["sparsity.distribution=er", "sparsity.sparsity=0.6", groups]);
        assert!((left - (0.4 / 3.0 + 0.2 / 3.0)).abs() < 1e-9, "{left}");
        assert!(densities.iter().zip([0.4, 0.4, 0.1, 0.1]).all(|(a, b)| (a - b).abs() < 1e-9));
    }
}
