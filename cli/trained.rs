//! What the verbs that use a trained model have in common: the model, and texts to give it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use mediswift_data::clean::text_of;
use mediswift_data::source::{self, Event};
use mediswift_data::{DataError, Tokenizer};
use mediswift_model::Gpt;
use mediswift_model::run::{self, Loaded};

use crate::output;
use crate::verb::Exit;

/// Texts that are read ahead of the model.
const AHEAD: usize = 256;

/// What every generated text comes with.
pub const DISCLAIMER: &str = "note: for research only, not for clinical use: the text may be \
                              wrong or harmful and must not inform the care of anyone";

/// The model of a run's newest complete checkpoint, with its tokenizer.
pub struct Trained {
    /// The model.
    pub gpt: Gpt,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Trained {
    /// Loads a run, and warns of newer checkpoints that cannot be used.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let Loaded { gpt, skipped, .. } = run::load_model(folder)?;
        skipped.iter().for_each(|warning| output::warning(warning));
        let tokenizer = Tokenizer::load(&run::tokenizer_path(folder))?;
        let (tokens, vocabulary) = (tokenizer.vocab_size(), gpt.size().vocabulary);
        anyhow::ensure!(
            tokens <= vocabulary,
            "{}: its tokenizer has {tokens} tokens, its model only {vocabulary}: the files belong \
             to different runs",
            folder.display()
        );
        Ok(Self { gpt, tokenizer })
    }

    /// A text as fine-tuning shows it to the model: `[end of text; source; virtual tokens]`.
    pub fn steered(&self, source: &str) -> anyhow::Result<Vec<u32>> {
        let prompt = self.gpt.prompt_ids();
        if prompt.is_empty() {
            return Err(Exit::usage("the model has no soft prompt: leave --soft-prompt out").into());
        }
        let mut ids = vec![self.tokenizer.end_of_text()];
        ids.extend(self.tokenizer.encode(source));
        ids.extend(prompt);
        Ok(ids)
    }
}

/// One text of a file.
pub struct Document {
    /// What it is about, if the file says so.
    pub identity: Option<String>,
    /// The text, cleaned as `data prepare` cleans it.
    pub text: String,
}

/// The texts of a file in any format that `data prepare` reads, read while others are worked on.
/// The first damage ends them: a part of a file is not what was asked for.
pub fn documents(path: PathBuf) -> impl Iterator<Item = Result<Document, DataError>> {
    let (send, receive) = mpsc::sync_channel(AHEAD);
    thread::spawn(move || {
        let read = source::read(&path, &mut |event| match event {
            Event::Record(record) => {
                let document = Document { text: text_of(&record), identity: record.identity };
                // Nobody listens any more.
                send.send(Ok(document)).map_err(|_| DataError::Interrupted)
            }
            Event::Damaged(damage) => Err(damage),
            Event::Deleted(_) => Ok(()),
        });
        if let Err(error) = read {
            let _ = send.send(Err(error));
        }
    });
    receive.into_iter()
}
