//! [`Records`]: what is written of a run while it is trained.

use crate::error::Error;
use crate::run::{self, Line, Log, RunFolder, StepMetrics, Validation};
use crate::sparsity::LayerSparsity;
use crate::tensorboard::Events;

/// The open files of a run folder.
pub(super) struct Records {
    folder: RunFolder,
    metrics: Log<StepMetrics>,
    validations: Log<Validation>,
    events: Events,
}

/// Records, and what they tell of the run so far.
pub(super) struct Opened<R = Records> {
    pub(super) records: R,
    /// The last optimiser step, if there was one and its line is not lost.
    pub(super) last: Option<StepMetrics>,
    /// Steps whose lines are there.
    pub(super) logged: usize,
    /// The last evaluation, if there was one.
    pub(super) validation: Option<Validation>,
    /// Parts of the logs that are lost.
    pub(super) notes: Vec<String>,
}

impl Records {
    /// Opens those of a run that has made so many steps.
    /// # Errors
    /// If they cannot be read or written.
    pub(super) fn open(
        folder: RunFolder,
        step: usize,
        layers: &[LayerSparsity],
    ) -> Result<Opened, Error> {
        let mut notes = Vec::new();
        let run::Opened { log: metrics, lines: mut steps, damage } =
            Log::<StepMetrics>::open(folder.path(), step)?;
        let logged = steps.len();
        if logged < step {
            let (path, reason) = (folder.path().join(StepMetrics::FILE), reason(damage));
            notes.push(format!(
                "{}: holds {logged} of the steps 1 to {step}{reason}; speeds and times count these alone",
                path.display()
            ));
        }
        let run::Opened { log: validations, lines: mut evaluations, damage } =
            Log::<Validation>::open(folder.path(), step)?;
        notes.extend(damage.map(|damage| format!("an evaluation is left out: {damage}")));
        let events = Events::open(folder.path(), folder.started()?, &steps, &evaluations)?;
        folder.describe_sparsity(layers)?;
        let records = Self { folder, metrics, validations, events };
        let (last, validation) = (steps.pop(), evaluations.pop());
        Ok(Opened { records, last, logged, validation, notes })
    }

    /// The run folder.
    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Writes a step down.
    /// # Errors
    /// If it cannot be written.
    pub(super) fn step(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        self.metrics.append(metrics)?;
        self.events.step(metrics)
    }

    /// Writes an evaluation down.
    /// # Errors
    /// If it cannot be written.
    pub(super) fn evaluation(&mut self, validation: &Validation) -> Result<(), Error> {
        self.validations.append(validation)?;
        self.events.evaluation(validation)
    }

    /// Waits until all is on the disk.
    /// # Errors
    /// If it cannot be written.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.metrics.sync()?;
        self.validations.sync()
    }
}

/// Why lines of a log are missing, where that is known.
fn reason(damage: Option<Error>) -> String {
    damage.map_or(String::new(), |damage| format!(" ({damage})"))
}
