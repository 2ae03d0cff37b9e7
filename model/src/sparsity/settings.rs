//! What the settings of sparsity come to, and what makes no sense of them.

use super::frozen::Static;
use super::schedule::{Distribution, DropShape};
use super::targets::Targets;
use super::timing::Timing;
use super::weights::linear_weights;
use crate::architecture::sparse_weights;
use crate::config::checks::{require, require_fit, require_some};
use crate::config::{DropFractionConfig, ModelConfig, SparsityConfig, SparsityGroup, UpdateConfig};
use crate::error::Error;
use crate::named::Named;
use glob::Pattern;

/// More updates than masks can shrink in: every one has a size of its own, which memory and FLOPs are planned by.
const MOST_UPDATES: usize = 100_000;

impl SparsityConfig {
    /// Weights of all linear layers together that a model of that size keeps in the end.
    pub fn kept(&self, size: &ModelConfig) -> usize {
        let targets = Targets::new(self, size);
        linear_weights(size).map(|weight| weight.kept(targets.of(&weight))).sum()
    }

    /// One phrase for people: `dense`, `75 % sparse`, `62.5 % sparse, by groups` over all layers, or
    /// `75 % sparse, er, rigl`.
    pub fn describe(&self, size: &ModelConfig) -> String {
        let all: usize = linear_weights(size).map(|weight| weight.len()).sum();
        let left_out = percent(1.0 - self.kept(size) as f64 / all as f64);
        let mut text = match self {
            Self { groups, .. } if !groups.is_empty() => format!("{left_out} sparse, by groups"),
            Self { sparsity: 0.0, .. } => "dense".to_string(),
            Self { sparsity, .. } => format!("{} sparse", percent(*sparsity)),
        };
        if self.distribution != Distribution::Uniform {
            text += &format!(", {}", self.distribution.name());
        }
        if self.algorithm.moves() {
            text += &format!(", {}", self.algorithm.name());
        }
        text
    }

    /// Makes these the settings of a model whose masks have fallen.
    pub(crate) fn fall(&mut self) {
        self.sparsity = 0.0;
        self.groups.clear();
        self.stay();
    }

    /// Makes these the settings of a model whose masks move no more.
    pub(crate) fn stay(&mut self) {
        self.algorithm = &Static;
    }

    /// Checks what a model is made by.
    /// # Errors
    /// If a sparsity or a fraction is out of range, or a pattern malformed or without a match.
    pub(crate) fn validate(&self, size: &ModelConfig) -> Result<(), Error> {
        check_range("sparsity.sparsity", self.sparsity)?;
        let DropFractionConfig { init, .. } = self.drop_fraction;
        let is_fraction = (0.0..=1.0).contains(&init);
        require(is_fraction, "sparsity.drop_fraction.init", init, "lie in [0, 1]")?;
        require_some("sparsity.update.freq", self.update.freq)?;
        self.groups.iter().enumerate().try_for_each(|(index, group)| {
            // People count from 1.
            let key = format!("sparsity.groups[{}]", index + 1);
            group.validate(&key, size)
        })
    }

    /// Checks that masks which are to move can, in a run of so many steps.
    /// # Errors
    /// If there is no mask or no update, if updates go on beyond the run, or an update would move nothing or leave
    /// nothing of a layer.
    pub(crate) fn validate_updates(&self, size: &ModelConfig, steps: usize) -> Result<(), Error> {
        if !self.algorithm.moves() {
            return Ok(());
        }
        let (algorithm, timing) = (self.algorithm.name(), Timing::new(self, steps));
        let targets = Targets::new(self, size);
        let sparse: Vec<_> =
            linear_weights(size).filter(|weight| targets.of(weight) > 0.0).collect();
        require_fit(!sparse.is_empty(), "sparsity.algorithm", || {
            format!(
                "{algorithm} moves masks, but every layer is dense: set sparsity.sparsity above 0"
            )
        })?;
        let UpdateConfig { stop, .. } = self.update;
        let (first, last_stop) = (timing.first, steps.saturating_add(1));
        require_fit(stop <= last_stop, "sparsity.update.stop", || {
            format!("{stop} lies beyond the run: masks must come to rest by train.steps = {steps}")
        })?;
        require_fit(first <= steps, "sparsity.update.start", || {
            format!("the first update is at step {first}, beyond train.steps = {steps}")
        })?;
        require_fit(timing.updates() > 0, "sparsity.update", || {
            let of_steps = if stop == 0 { ", three quarters of train.steps" } else { "" };
            format!(
                "the first update is at step {first}, but they stop before step {}{of_steps}: choose a smaller \
                 freq or start",
                timing.stop
            )
        })?;
        let counted = !self.algorithm.changes_size() || timing.updates() <= MOST_UPDATES;
        require_fit(counted, "sparsity.update.freq", || {
            let updates = timing.updates();
            format!(
                "{algorithm} makes {updates} updates, more than {MOST_UPDATES}: choose a larger freq"
            )
        })?;
        let DropFractionConfig { r#type, half_period, .. } = self.drop_fraction;
        let last = timing.step_of(timing.updates());
        let lasts = r#type != DropShape::Cosine || half_period == 0 || half_period > last;
        let lasts = lasts || self.algorithm.changes_size();
        require_fit(lasts, "sparsity.drop_fraction.half_period", || {
            format!(
                "the fraction is 0 from step {half_period} on, but updates go on until step {last}: choose more, or a \
                 smaller sparsity.update.stop"
            )
        })?;
        for weight in sparse {
            let (sparsity, places) = (targets.of(&weight), weight.len() / weight.parts);
            require_fit(u32::try_from(places).is_ok(), "sparsity.algorithm", || {
                format!(
                    "{algorithm}: '{}' has {places} places, too many for 32-bit indices",
                    weight.name
                )
            })?;
            require_fit(weight.kept(sparsity) > 0, "sparsity.sparsity", || {
                let most = 1.0 - 1.0 / places as f64;
                format!("{sparsity} leaves no weight of '{}': at most {most:.6} does", weight.name)
            })?;
        }
        Ok(())
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
        config.sparsity.sparsity = 0.75;
        config.set("sparsity.algorithm=rigl").unwrap();
        assert_eq!(describe(&config), "75 % sparse, rigl");
        config.set("sparsity.distribution=er").unwrap();
        assert_eq!(describe(&config), "75 % sparse, er, rigl");
    }

    #[test]
    fn updates_that_cannot_be_are_refused_in_one_line() {
        for (assignments, expected) in [
            (&["sparsity.sparsity=0"][..], "rigl moves masks, but every layer is dense"),
            (&["sparsity.update.stop=102"], "sparsity.update.stop: 102 lies beyond the run"),
            (
                &["sparsity.update.start=101"],
                "the first update is at step 101, beyond train.steps = 100",
            ),
            (
                &["sparsity.update.freq=75"],
                "but they stop before step 75, three quarters of train.steps",
            ),
            (
                &["sparsity.update={start=40, stop=40}"],
                "at step 40, but they stop before step 40: choose",
            ),
            (&["sparsity.update.freq=0"], "sparsity.update.freq: is 0"),
            (
                &["sparsity.drop_fraction.init=1.1"],
                "drop_fraction.init: is 1.1, but must lie in [0, 1]",
            ),
            (&["sparsity.drop_fraction.init=-0.1"], "drop_fraction.init: is -0.1"),
            (&["sparsity.drop_fraction.init=nan"], "drop_fraction.init: is NaN"),
            (
                &["sparsity.drop_fraction.half_period=70"],
                "half_period: the fraction is 0 from step 70 on, but updates go on until step 70",
            ),
            (
                &["sparsity.sparsity=0.99999"],
                "0.99999 leaves no weight of 'blocks.0.attn.qkv.weight'",
            ),
            (
                &["sparsity.algorithm=gmp", "sparsity.sparsity=0.9999"],
                "0.9999 leaves no weight of 'blocks.0.attn.qkv.weight': at most 0.999756 does",
            ),
        ] {
            let mut config = Config::from_preset("micro").unwrap();
            for assignment in [
                "train.steps=100",
                "sparsity.sparsity=0.5",
                "sparsity.algorithm=rigl",
                "sparsity.update.freq=10",
            ]
            .iter()
            .chain(assignments)
            {
                config.set(assignment).unwrap();
            }
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
