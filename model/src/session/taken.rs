//! [`Taken`]: a run as it is taken up, before anybody goes on with it.

use super::together::Origin;
use crate::adamw::Moments;
use crate::checkpoint::{self, Checkpoint, Choice, Chosen};
use crate::config::Config;
use crate::error::Error;
use crate::evaluate::validation_tokens;
use crate::gpt::Gpt;
use crate::loss_scale::LossScale;
use crate::named::Named;
use crate::optimisation::Optimisation;
use crate::reduction::Reduce;
use crate::run::{RunFolder, Together, read_config, read_reduce};
use crate::schedule::Schedule;
use crate::sparsity::MaskState;
use mediswift_data::{Batches, Dataset, Position, Split};
use mediswift_ranks::Ranks;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a run was taken up.
pub(super) struct Resumed {
    pub step: usize,
    pub checkpoint: Option<PathBuf>,
    pub skipped: Vec<String>,
}

/// A run that is taken up, on one rank.
pub(super) struct Taken {
    pub config: Config,
    pub batches: Batches,
    pub folder: Option<RunFolder>,
    pub model: Model,
    /// How gradients were and will be added up: the faster way if any were or will be.
    pub reduce: Reduce,
    pub resumed: Resumed,
    pub notes: Vec<String>,
}

/// Where an optimisation goes on.
pub(super) struct Model {
    pub gpt: Gpt,
    pub moments: Moments,
    pub step: u64,
    pub skipped: u64,
    pub loss_scale: Option<LossScale>,
    pub masks: MaskState,
}

impl Taken {
    /// On the rank that has the folder.
    pub fn up(
        ranks: &dyn Ranks,
        reduce: Reduce,
        mut config: Config,
        dataset: &Arc<Dataset>,
        out: &Path,
        choice: Choice,
    ) -> Result<Self, Error> {
        let before = read_config(out)?;
        if config.kernels.plans.is_empty() {
            // Other plans would give other bits.
            config.kernels = before.kernels.clone();
        }
        let (config, mut batches) = fit(config, dataset)?;
        let earlier = read_reduce(out);
        let now = reduce.among(ranks.count());
        let so_far = if earlier == Some(Reduce::Fast) { Reduce::Fast } else { now };
        let together = Together { ranks: ranks.count(), reduce: so_far };
        let folder = RunFolder::resume(out, &config, dataset, together)?;
        let fingerprint = dataset.fingerprint();
        let read = |checkpoint: &Checkpoint| {
            checkpoint.check_run(&config, &fingerprint)?;
            Model::read(ranks, reduce, checkpoint, &config)
        };
        let chosen = checkpoint::choose(&folder.checkpoints(), choice, read)?;
        let mut notes = Vec::from_iter(useless(reduce, together));
        let (model, resumed) = match chosen {
            Some(Chosen { checkpoint, content, skipped }) => {
                seek(&mut batches, &checkpoint)?;
                notes.extend(extension(&checkpoint.config, &config));
                let step = content.step as usize;
                (content, Resumed { step, checkpoint: Some(checkpoint.path), skipped })
            }
            None => {
                let (mine, theirs) = (config.train.steps, before.train.steps);
                if mine != theirs {
                    let differences = config.differences(&before);
                    return Err(Error::OtherSettings { path: out.to_path_buf(), differences });
                }
                (Model::new(ranks, reduce, &config)?, Resumed::anew())
            }
        };
        if config.train.steps != before.train.steps {
            folder.plan(&config)?;
        }
        // What an interrupted save or removal left.
        checkpoint::prune(&folder.checkpoints(), &config.checkpoint, model.step)?;
        notes.extend(changed(earlier, now));
        let folder = Some(folder);
        Ok(Self { config, batches, folder, model, reduce: so_far, resumed, notes })
    }

    /// On the others: what rank 0 has taken up.
    pub fn after(
        ranks: &dyn Ranks,
        reduce: Reduce,
        origin: &Origin,
        dataset: &Arc<Dataset>,
    ) -> Result<Self, Error> {
        let (config, mut batches) = fit(origin.config()?, dataset)?;
        let (model, resumed) = match &origin.checkpoint {
            Some(path) => {
                let checkpoint = Checkpoint::open(path)?;
                seek(&mut batches, &checkpoint)?;
                let model = Model::read(ranks, reduce, &checkpoint, &config)?;
                let (step, skipped) = (model.step as usize, vec![]);
                (model, Resumed { step, checkpoint: Some(path.clone()), skipped })
            }
            None => (Model::new(ranks, reduce, &config)?, Resumed::anew()),
        };
        let (reduce, notes) = (origin.reduce, Vec::new());
        Ok(Self { config, batches, folder: None, model, reduce, resumed, notes })
    }
}

impl Resumed {
    fn anew() -> Self {
        Self { step: 0, checkpoint: None, skipped: vec![] }
    }
}

impl Model {
    fn new(ranks: &dyn Ranks, reduce: Reduce, config: &Config) -> Result<Self, Error> {
        let gpt = Gpt::new(config)?;
        let moments = Optimisation::zero_moments(ranks, reduce, &gpt);
        let (loss_scale, masks) = (None, MaskState::default());
        Ok(Self { gpt, moments, step: 0, skipped: 0, loss_scale, masks })
    }

    /// The model of a checkpoint, and this rank's shard of its moments.
    fn read(
        ranks: &dyn Ranks,
        reduce: Reduce,
        checkpoint: &Checkpoint,
        config: &Config,
    ) -> Result<Self, Error> {
        let gpt = checkpoint.model(config)?;
        let zeros = Optimisation::zero_moments(ranks, reduce, &gpt);
        let moments = checkpoint.moments_of(gpt.parameters(), &zeros.first.held())?;
        let manifest = &checkpoint.manifest;
        let (step, skipped, loss_scale) = (manifest.step, manifest.skipped, manifest.loss_scale);
        let (moments, masks) = (moments.unwrap_or(zeros), manifest.masks.unwrap_or_default());
        Ok(Self { gpt, moments, step, skipped, loss_scale, masks })
    }
}

/// That one rank has nothing to add up, if it is to do so in another way than by default.
pub(super) fn useless(wished: Reduce, together: Together) -> Option<String> {
    let name = wished.name();
    let is_useless = together.ranks == 1 && wished != Reduce::Exact;
    is_useless
        .then(|| format!("--reduce {name} does nothing here: one rank has nobody to add up with"))
}

/// That gradients are added up in another way from now on.
fn changed(earlier: Option<Reduce>, now: Reduce) -> Option<String> {
    let (earlier, now) = (earlier.filter(|earlier| *earlier != now)?.name(), now.name());
    Some(format!(
        "gradients were added up by --reduce {earlier} before, and are by --reduce {now} from here on"
    ))
}

/// Goes on in the data where a checkpoint was made.
fn seek(batches: &mut Batches, checkpoint: &Checkpoint) -> Result<(), Error> {
    let (sequences, windows) = (checkpoint.manifest.data.sequences, batches.windows_per_epoch());
    Ok(batches.seek(Position { epoch: sequences / windows, index: sequences % windows })?)
}

/// What becomes of the learning rate where a run that has done all of its `planned` steps gets more.
fn extension(planned: &Config, now: &Config) -> Option<String> {
    let (done, all) = (planned.train.steps, now.train.steps);
    (done != all).then(|| {
        let last = Schedule::new(planned).learning_rate(done.saturating_sub(1));
        let next = Schedule::new(now).learning_rate(done);
        format!(
            "all {done} steps are done, and {all} are wanted now: the learning rate goes on as planned for \
             {all} steps, from {last:.3e} to {next:.3e}"
        )
    })
}

/// The configuration with the vocabulary of the data, and the data that it asks for.
pub(super) fn fit(mut config: Config, dataset: &Arc<Dataset>) -> Result<(Config, Batches), Error> {
    config.validate()?;
    let needed = dataset.vocab_size();
    if config.model.vocabulary == 0 {
        config.model.vocabulary = needed;
    }
    if config.model.vocabulary < needed {
        let found = config.model.vocabulary;
        let problem = format!("is {found}, but the data have {needed} tokens: leave it at 0");
        return Err(Error::setting("model.vocabulary", problem));
    }
    validation_tokens(dataset)?;
    let (context, seed) = (config.train.context, config.train.seed);
    let batches = Batches::new(Arc::clone(dataset), Split::Train, context, seed)?;
    Ok((config, batches))
}
