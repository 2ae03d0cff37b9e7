//! The documents that stay, and what of all inputs came to be.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::extract;
use super::preparation::TokenizerSource;
use super::progress::{PrepareProgress, PrepareStage, Watch};
use super::resolve::{self, Fates};
use super::segment::Segment;
use super::staying::Staying;
use super::unit::{Account, Unit};
use crate::clean::{Cleaning, DropReason};
use crate::manifest::{InputManifest, InputReport};
use crate::{DataError, Split, Tokenizer};

/// Segments on disk, and which of their documents stay.
pub(crate) struct Chosen {
    accounts: Vec<Account>,
    pub segments: Vec<Segment>,
    pub fates: Fates,
}

impl Chosen {
    /// Reads the units and decides; `work` holds what is on the way.
    pub fn from_units(
        units: &[Unit],
        cleaning: &Cleaning,
        strict: bool,
        work: &Path,
        progress: Watch,
    ) -> Result<Self, DataError> {
        let accounts = extract::extract(units, cleaning, strict, work, progress)?;
        let segments = extract::segments(&accounts, work)?;
        let documents = segments.iter().map(|s| s.documents as u64).sum();
        let now = PrepareProgress {
            stage: PrepareStage::Choosing,
            bytes_read: 0,
            bytes_total: 0,
            documents,
        };
        let fates =
            resolve::resolve(
                &segments,
                &accounts,
                cleaning.near_duplicates,
                &mut || match progress(&now) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(DataError::Interrupted),
                },
            )?;
        Ok(Self { accounts, segments, fates })
    }

    /// Learns a vocabulary from the documents that stay and are not held out.
    pub fn learn(
        &self,
        learn: &TokenizerSource,
        validation_fraction: f64,
        progress: Watch,
    ) -> Result<Tokenizer, DataError> {
        let (kind, vocab_size, min_frequency, sample) = match learn {
            TokenizerSource::File(path) => return Tokenizer::load(path),
            TokenizerSource::Train { kind, vocab_size, min_frequency, sample } => {
                (*kind, *vocab_size, *min_frequency, *sample)
            }
        };
        let total = self.fates.staying();
        let mut read = 0;
        let mut staying = Staying::new(&self.segments, &self.fates, validation_fraction);
        let texts = std::iter::from_fn(|| {
            loop {
                let text = match staying.next()? {
                    Ok((text, Split::Train)) => Some(Ok(text)),
                    Ok((_, Split::Validation)) => None,
                    Err(error) => return Some(Err(error)),
                };
                read += 1;
                let now = PrepareProgress {
                    stage: PrepareStage::Learning,
                    bytes_read: read,
                    bytes_total: total,
                    documents: read,
                };
                if read % 256 == 0 && progress(&now).is_break() {
                    return Some(Err(DataError::Interrupted));
                }
                // Every so many-th document, evenly.
                let counted = (read as f64 * sample).floor() > ((read - 1) as f64 * sample).floor();
                if let Some(text) = text.filter(|_| counted || sample >= 1.0) {
                    return Some(text);
                }
            }
        });
        Tokenizer::train(kind, texts, vocab_size, min_frequency)
    }

    /// What became of the inputs, as asked for; `passed_over` says what was not even opened.
    pub fn report(
        &self,
        inputs: &[PathBuf],
        units: &[Unit],
        passed_over: &[DataError],
    ) -> InputReport {
        let accounts = || self.accounts.iter();
        let mut notes: Vec<String> = passed_over.iter().map(ToString::to_string).collect();
        notes.extend(accounts().flat_map(|account| account.notes.iter().cloned()));
        InputReport {
            inputs: self.inputs(inputs, units),
            damaged: accounts().flat_map(|account| account.damaged.iter().cloned()).collect(),
            notes,
            dropped: self.dropped(),
        }
    }

    /// Records left out, by reason.
    fn dropped(&self) -> BTreeMap<String, u64> {
        let mut dropped = DropReason::zeros();
        for account in &self.accounts {
            for (reason, count) in &account.dropped {
                *dropped.entry(reason.clone()).or_default() += count;
            }
        }
        for reason in DropReason::ALL {
            *dropped.entry(reason.name().to_owned()).or_default() += self.fates.count(reason);
        }
        dropped
    }

    /// What each input, as asked for, came to.
    fn inputs(&self, inputs: &[PathBuf], units: &[Unit]) -> Vec<InputManifest> {
        let mut described: Vec<InputManifest> =
            inputs.iter().map(|i| InputManifest::new(i)).collect();
        let mut segments = self.segments.iter();
        let mut document = 0;
        for (unit, account) in units.iter().zip(&self.accounts) {
            let input = &mut described[unit.input];
            input.files += unit.files.len() as u64;
            input.records += account.records;
            for segment in segments.by_ref().take(account.segments) {
                let numbers = document..document + segment.documents;
                document = numbers.end;
                input.documents += numbers.filter(|&d| self.fates.stays(d)).count() as u64;
            }
        }
        described
    }
}
