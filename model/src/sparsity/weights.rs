//! Which weights sparsity applies to, and how sparse each of them is to be.

use crate::architecture::{Slot, slots, sparse_weights};
use crate::config::checks::{require, require_fit};
use crate::config::{ModelConfig, SparsityConfig, SparsityGroup};
use crate::error::Error;
use glob::Pattern;
use mediswift_kernels::sparse::mask::kept;
use serde::Serialize;

/// A weight that sparsity applies to: of a linear layer of a block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinearWeight {
    /// Its name.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Equal masks on top of each other: 3 for a joint query-key-value projection, else 1.
    pub parts: usize,
}

impl LinearWeight {
    /// Weights in its dense form.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Weights kept at a sparsity: exactly those of its mask.
    pub fn kept(&self, sparsity: f64) -> usize {
        self.parts * kept(self.len() / self.parts, sparsity)
    }
}

impl Slot {
    /// The tensor as a weight, if sparsity applies to it.
    pub(crate) fn linear_weight(&self) -> Option<LinearWeight> {
        let (name, parts) = (self.name.clone(), self.masks());
        let weight =
            || LinearWeight { name, rows: self.extents[0], columns: self.extents[1], parts };
        (parts > 0).then(weight)
    }
}

/// Every weight of a model that sparsity applies to, block by block.
pub fn linear_weights(size: &ModelConfig) -> impl Iterator<Item = LinearWeight> {
    slots(size, 0).into_iter().filter_map(|slot| slot.linear_weight())
}

/// Sparsity of one layer, as wanted and as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSparsity {
    /// Name of the weight.
    pub name: String,
    /// Sparsity in the configuration.
    pub target: f64,
    /// Weights left out as a fraction of all.
    pub actual: f64,
    /// Weights kept.
    pub nnz: usize,
    /// Weights, zeros included.
    #[serde(skip)]
    pub weights: usize,
}

impl SparsityConfig {
    /// The sparsity that the weight `name` is to have: that of the last group that matches it, else
    /// that of all.
    pub fn of(&self, name: &str) -> f64 {
        let group = self.groups.iter().rev().find(|group| {
            let patterns = group.param_filter.iter();
            patterns.filter_map(|p| Pattern::new(p).ok()).any(|pattern| pattern.matches(name))
        });
        group.map_or(self.sparsity, |group| group.sparsity)
    }

    /// Weights of all linear layers together that a model of that size keeps.
    pub fn kept(&self, size: &ModelConfig) -> usize {
        linear_weights(size).map(|weight| weight.kept(self.of(&weight.name))).sum()
    }

    /// One phrase for people: `dense`, `75 % sparse`, or `62.5 % sparse, by groups`, over all layers.
    pub fn describe(&self, size: &ModelConfig) -> String {
        let all: usize = linear_weights(size).map(|weight| weight.len()).sum();
        let left_out = percent(1.0 - self.kept(size) as f64 / all as f64);
        match self {
            Self { groups, .. } if !groups.is_empty() => format!("{left_out} sparse, by groups"),
            Self { sparsity: 0.0, .. } => "dense".to_string(),
            Self { sparsity, .. } => format!("{} sparse", percent(*sparsity)),
        }
    }

    /// # Errors
    /// If a sparsity is out of range, or a pattern malformed or without a match.
    pub(crate) fn validate(&self, size: &ModelConfig) -> Result<(), Error> {
        check_range("sparsity.sparsity", self.sparsity)?;
        self.groups.iter().enumerate().try_for_each(|(index, group)| {
            // People count from 1.
            let key = format!("sparsity.groups[{}]", index + 1);
            group.validate(&key, size)
        })
    }
}

impl SparsityGroup {
    fn validate(&self, key: &str, size: &ModelConfig) -> Result<(), Error> {
        check_range(&format!("{key}.sparsity"), self.sparsity)?;
        let key = format!("{key}.param_filter");
        require_fit(!self.param_filter.is_empty(), &key, || {
            "is empty: name the weights, as in [\"blocks.*.mlp.*\"]".into()
        })?;
        for text in &self.param_filter {
            let pattern = Pattern::new(text)
                .map_err(|e| Error::setting(&key, format!("'{text}' is no pattern: {e}")))?;
            if !linear_weights(size).any(|weight| pattern.matches(&weight.name)) {
                return Err(no_match(key, text, size));
            }
        }
        Ok(())
    }
}

/// A pattern that matches no weight; the one meant may be a class of weights or a single one.
fn no_match(key: String, pattern: &str, size: &ModelConfig) -> Error {
    let classes = sparse_weights().map(str::to_string);
    let short = |name: &'static str| name.strip_prefix("blocks.*.")?.strip_suffix(".weight");
    let names: Vec<&str> = sparse_weights().filter_map(short).collect();
    let parts = names.iter().filter_map(|name| name.split_once('.'));
    let parts = parts.map(|(part, _)| format!("blocks.*.{part}.*"));
    let single = linear_weights(size).map(|weight| weight.name);
    let candidates: Vec<String> = parts.chain(classes).chain(single).collect();
    let distance = |name: &&String| strsim::damerau_levenshtein(&pattern.to_lowercase(), name);
    let nearest = candidates.iter().min_by_key(distance).expect("some candidates");
    let last = size.layers - 1;
    let problem = format!(
        "'{pattern}' matches no weight of a linear layer: did you mean '{nearest}'? (weights are \
         blocks.N.{{{}}}.weight with N from 0 to {last})",
        names.join(", ")
    );
    Error::setting(key, problem)
}

fn check_range(key: &str, sparsity: f64) -> Result<(), Error> {
    require((0.0..1.0).contains(&sparsity), key, sparsity, "lie in [0, 1)")
}

/// `75 %`, `62.5 %`.
fn percent(fraction: f64) -> String {
    let text = format!("{:.1}", 100.0 * fraction);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::gpt::Gpt;
    use mediswift_engine::Shape;

    fn with_groups(groups: &[(&[&str], f64)]) -> Config {
        let mut config = Config::from_preset("micro").unwrap();
        config.model.vocabulary = 20;
        config.sparsity.sparsity = 0.5;
        config.sparsity.groups = groups
            .iter()
            .map(|(patterns, sparsity)| SparsityGroup {
                param_filter: patterns.iter().map(ToString::to_string).collect(),
                sparsity: *sparsity,
            })
            .collect();
        config
    }

    #[test]
    fn groups_change_the_sparsity_of_the_weights_they_match() {
        let config = with_groups(&[
            (&["blocks.*.mlp.*"], 0.9),
            (&["blocks.1.mlp.up.weight", "blocks.[1-9].attn.proj.*"], 0.0),
        ]);
        config.validate().unwrap();
        let gpt = Gpt::new(&config).unwrap();
        let layers = gpt.layer_sparsity(&config.sparsity);
        let targets: Vec<f64> = layers.iter().map(|layer| layer.target).collect();
        assert_eq!(targets, [0.5, 0.5, 0.9, 0.9, 0.5, 0.0, 0.0, 0.9]);
        for (layer, weight) in layers.iter().zip(gpt.linear_weights()) {
            assert!((layer.actual - layer.target).abs() < 1e-4, "{layer:?}");
            assert_eq!(matches!(weight.shape, Shape::Sparse(_)), layer.target > 0.0, "{layer:?}");
            assert_eq!(layer.nnz, weight.values.len());
        }
        let nnz: usize = layers.iter().map(|layer| layer.nnz).sum();
        assert_eq!(config.sparsity.kept(&config.model), nnz);
        // What other layers have does not change a mask.
        let uniform = Gpt::new(&with_groups(&[])).unwrap();
        let mask = |gpt: &Gpt| match &gpt.linear_weights().next().unwrap().shape {
            Shape::Sparse(pattern) => pattern.clone(),
            _ => panic!("it is sparse"),
        };
        assert_eq!(mask(&gpt), mask(&uniform));
    }

    #[test]
    fn weights_go_on_under_the_groups_they_were_made_with_alone() {
        let config = with_groups(&[(&["blocks.*.mlp.*"], 0.0)]);
        let parameters = || Gpt::new(&config).unwrap().parameters().clone();
        Gpt::from_parameters(&config, parameters()).unwrap();
        let error = Gpt::from_parameters(&with_groups(&[]), parameters()).err().unwrap();
        let expected = "is 0.5 for tensor 'blocks.0.mlp.up.weight', which has no mask";
        assert!(error.to_string().contains(expected), "{error}");
        let other = with_groups(&[(&["blocks.*"], 0.0)]);
        let error = Gpt::from_parameters(&other, parameters()).err().unwrap();
        let expected = "is 0 for tensor 'blocks.0.attn.qkv.weight', which has a mask";
        assert!(error.to_string().contains(expected), "{error}");
        let differences = with_groups(&[]).differences(&config);
        assert_eq!(differences.len(), 1);
        assert!(differences[0].starts_with("sparsity.groups is [] here, but "), "{differences:?}");
    }

    #[test]
    fn groups_that_mean_nothing_are_refused() {
        for (patterns, sparsity, expected) in [
            (
                &["blocks.*.mpl.*"][..],
                0.9,
                "sparsity.groups[1].param_filter: 'blocks.*.mpl.*' matches no weight of a linear \
                 layer: did you mean 'blocks.*.mlp.*'?",
            ),
            (&["blocks.0.mlp.upp.weight"], 0.9, "did you mean 'blocks.0.mlp.up.weight'?"),
            (&["blocks.*.attn.q.weight"], 0.9, "did you mean 'blocks.*.attn.qkv.weight'?"),
            (&["blocks.2.*"], 0.9, "with N from 0 to 1"),
            (&["tok_embed.weight"], 0.9, "matches no weight of a linear layer"),
            (&["blocks.*", "blocks.*.bias"], 0.9, "'blocks.*.bias' matches no weight"),
            (&["blocks.[0.*"], 0.9, "'blocks.[0.*' is no pattern: "),
            (&[], 0.9, "sparsity.groups[1].param_filter: is empty"),
            (&["blocks.*"], 1.0, "sparsity.groups[1].sparsity: is 1, but must lie in [0, 1)"),
            (&["blocks.*"], f64::NAN, "sparsity.groups[1].sparsity: is NaN"),
        ] {
            let error = with_groups(&[(patterns, sparsity)]).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn descriptions_are_for_people() {
        let describe = |config: &Config| config.sparsity.describe(&config.model);
        let mut config = with_groups(&[]);
        assert_eq!(describe(&config), "50 % sparse");
        config.sparsity.sparsity = 0.625;
        assert_eq!(describe(&config), "62.5 % sparse");
        config.sparsity.sparsity = 0.0;
        assert_eq!(describe(&config), "dense");
        assert_eq!(describe(&with_groups(&[(&["*.mlp.*"], 0.8)])), "70 % sparse, by groups");
    }
}
