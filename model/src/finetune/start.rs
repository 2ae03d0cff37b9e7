//! What fine-tuning starts from: a pre-trained model whose mask falls, with a soft prompt.

use super::settings::{Inactive, Settings, Weights};
use crate::config::Config;
use crate::error::Error;
use crate::gpt::PROMPT;
use crate::init::{Init, STD};
use mediswift_data::Tokenizer;
use mediswift_engine::{Parameter, Parameters, Shape};
use mediswift_kernels::AlignedBuffer;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A model without a sparsity pattern of its own: settings and weights.
#[derive(Clone, Debug)]
pub struct Start {
    /// Size and sparsity.
    pub config: Config,
    /// Weights.
    pub parameters: Parameters,
}

impl Start {
    /// The model as `settings` want it: dense unless the mask is to stay. Inactive weights come
    /// back as zeros, so that the function it computes is that of the sparse model (MediSwift
    /// §2.2), or at random for comparison.
    pub fn new(mut config: Config, parameters: &Parameters, settings: &Settings) -> Self {
        if settings.finetune.weights != Weights::Dense {
            return Self { config, parameters: parameters.clone() };
        }
        let mut dense = Parameters::default();
        for (_, parameter) in parameters.iter() {
            let (shape, values) = densified(parameter, &config, settings);
            dense.add(parameter.name.clone(), shape, values);
        }
        config.sparsity.sparsity = 0.0;
        config.sparsity.groups.clear();
        config.kernels.plans.clear();
        Self { config, parameters: dense }
    }

    /// Adds the soft prompt that `settings` want; a prompt from an earlier fine-tuning is replaced.
    /// # Errors
    /// If the prompt's text has no token.
    pub fn with_prompt(
        self,
        settings: &Settings,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Self, Error> {
        let tune = &settings.finetune;
        let mut parameters = Parameters::default();
        for (_, Parameter { name, shape, values }) in self.parameters.iter() {
            if name != PROMPT {
                parameters.add(name.clone(), shape.clone(), values.clone());
            }
        }
        if tune.prompt_tokens > 0 {
            let rows: Vec<u32> = if tune.prompt_text.is_empty() {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let words = tokenizer.vocab_size() as u64;
                (0..tune.prompt_tokens).map(|_| (random.next_u64() % words) as u32).collect()
            } else {
                let ids = tokenizer.encode(&tune.prompt_text);
                if ids.is_empty() {
                    let problem = "the text has no token: give another, or none";
                    return Err(Error::config("finetune.prompt_text", problem));
                }
                ids.into_iter().cycle().take(tune.prompt_tokens).collect()
            };
            let d = self.config.model.d_model;
            let tokens = parameters.find("tok_embed.weight").expect("every model has it");
            let table = &parameters[tokens];
            let row = |&id: &u32| table[id as usize * d..][..d].iter().copied();
            let values: AlignedBuffer = rows.iter().flat_map(row).collect();
            parameters.add(PROMPT, Shape::Matrix(rows.len(), d), values);
        }
        Ok(Self { parameters, ..self })
    }
}

/// A weight without its mask.
fn densified(
    parameter: &Parameter,
    config: &Config,
    settings: &Settings,
) -> (Shape, AlignedBuffer) {
    let Shape::Sparse(pattern) = &parameter.shape else {
        return (parameter.shape.clone(), parameter.values.clone());
    };
    let (rows, columns) = (pattern.rows(), pattern.columns());
    let shape = Shape::Matrix(rows, columns);
    let mut values = if settings.finetune.inactive == Inactive::Random {
        let residual = [".attn.proj.weight", ".mlp.down.weight"];
        let init = match residual.iter().any(|end| parameter.name.ends_with(end)) {
            true => Init::residual(config.model.layers),
            false => Init::Normal(STD),
        };
        init.values(&parameter.name, rows, columns, settings.finetune.seed)
    } else {
        AlignedBuffer::zeros(rows * columns)
    };
    for row in 0..rows {
        for (at, &column) in pattern.row_range(row).zip(pattern.row(row)) {
            values[row * columns + column as usize] = parameter.values[at];
        }
    }
    (shape, values)
}
