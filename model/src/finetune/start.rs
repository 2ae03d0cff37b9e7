//! What fine-tuning starts from: a pre-trained model whose mask falls, with a soft prompt.

use super::settings::{Inactive, Settings, Weights};
use crate::architecture::PROMPT;
use crate::config::Config;
use crate::config::checks::require_fit;
use crate::error::Error;
use crate::gpt::initialise;
use mediswift_data::Tokenizer;
use mediswift_engine::{Layout, Parameters, Shape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Checks that the soft prompt that `settings` want leaves room for anything else.
/// # Errors
/// If it has as many tokens as the model has positions, or more.
pub(crate) fn check_prompt(settings: &Settings, config: &Config) -> Result<(), Error> {
    let (tokens, positions) = (settings.finetune.prompt_tokens, config.model.context);
    require_fit(tokens < positions, "finetune.prompt_tokens", || {
        format!(
            "is {tokens}, but the model has {positions} positions for prompt, source and target"
        )
    })
}

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
        // A model that was to become sparse later may have no mask yet.
        let is_sparse = |shape: &Shape| matches!(shape, Shape::Sparse(_));
        match parameters.iter().any(|(_, tensor)| is_sparse(tensor.shape)) {
            true => config.sparsity.stay(),
            false => config.sparsity.fall(),
        }
        if settings.finetune.weights != Weights::Dense {
            return Self { config, parameters: parameters.clone() };
        }
        let tensors = parameters.iter().map(|(_, tensor)| {
            let shape = match tensor.shape {
                Shape::Sparse(pattern) => Shape::Matrix(pattern.rows(), pattern.columns()),
                shape => shape.clone(),
            };
            (tensor.name, shape)
        });
        let mut dense = Parameters::zeros(&Layout::new(tensors));
        if settings.finetune.inactive == Inactive::Random {
            initialise(&mut dense, &config, settings.finetune.seed);
        }
        dense.carry_over(parameters);
        config.sparsity.fall();
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
        let d = self.config.model.d_model;
        let mut prompt = Vec::new();
        if tune.prompt_tokens > 0 {
            let rows: Vec<u32> = if tune.prompt_text.is_empty() {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let words = tokenizer.vocab_size() as u64;
                (0..tune.prompt_tokens).map(|_| (random.next_u64() % words) as u32).collect()
            } else {
                let ids = tokenizer.encode(&tune.prompt_text);
                if ids.is_empty() {
                    let problem = "the text has no token: give another, or none";
                    return Err(Error::setting("finetune.prompt_text", problem));
                }
                ids.into_iter().cycle().take(tune.prompt_tokens).collect()
            };
            let tokens = self.parameters.find("tok_embed.weight").expect("every model has it");
            let table = &self.parameters[tokens];
            rows.iter().for_each(|&id| prompt.extend(&table[id as usize * d..][..d]));
        }
        let model = self.parameters.iter().filter(|(_, tensor)| tensor.name != PROMPT);
        let model = model.map(|(_, tensor)| (tensor.name, tensor.shape.clone(), tensor.values));
        let shape = Shape::Matrix(tune.prompt_tokens, d);
        let prompt = (!prompt.is_empty()).then_some((PROMPT, shape, &prompt[..]));
        Ok(Self { parameters: Parameters::from_tensors(model.chain(prompt)), config: self.config })
    }
}
