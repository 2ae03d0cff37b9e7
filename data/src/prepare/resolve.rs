//! Which documents stay, when all are known: revisions, withdrawals, duplicates.
//!
//! Works on the columns of the segments alone, one property at a time, and where there are very many
//! documents, one range of keys at a time: memory is a byte per document and one bounded table.
//!
//! Rules, in order. Of records with the same number in the same registry, the last stays (the highest
//! version, then the latest in the order of the inputs). A withdrawn record is dropped if it came
//! before the withdrawal. Of equal texts the first stays. Of nearly equal texts, the first.

use rayon::prelude::*;

use super::segment::{Column, Segment};
use super::unit::Account;
use crate::DataError;
use crate::clean::DropReason;
use crate::clean::sketch::{BANDS, similarity};

/// Pairs of key and document sorted at a time: 512 MB.
const TABLE: usize = 32 << 20;

/// What became of each document, by its number in the order of the segments: 0, or a reason.
pub(crate) struct Fates {
    fates: Vec<u8>,
}

impl Fates {
    /// The document stays.
    pub fn stays(&self, document: usize) -> bool {
        self.fates[document] == 0
    }

    /// Documents that stay.
    pub fn staying(&self) -> u64 {
        self.fates.iter().filter(|&&fate| fate == 0).count() as u64
    }

    /// How many documents were dropped for `reason`.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.fates.iter().filter(|&&fate| fate == reason as u8).count() as u64
    }

    fn drop(&mut self, document: usize, reason: DropReason) {
        self.fates[document] = reason as u8;
    }
}

/// Decides. `interrupted` is asked between passes.
pub(crate) fn resolve(
    segments: &[Segment],
    accounts: &[Account],
    near_duplicates: Option<f64>,
    interrupted: &mut dyn FnMut() -> Result<(), DataError>,
) -> Result<Fates, DataError> {
    let documents = segments.iter().map(|segment| segment.documents).sum();
    let mut fates = Fates { fates: vec![0; documents] };
    let corpus = Corpus::new(segments);
    revisions(&corpus, &withdrawals(segments, accounts), &mut fates)?;
    interrupted()?;
    corpus.groups(Column::Exact(0), &mut fates, |group, fates| {
        let mut seen = Vec::new();
        for &document in group {
            let hash = corpus.value(Column::Exact(1), document)?;
            if seen.contains(&hash) {
                fates.drop(document, DropReason::Duplicate);
            } else {
                seen.push(hash);
            }
        }
        Ok(())
    })?;
    if let Some(threshold) = near_duplicates {
        for band in 0..BANDS {
            interrupted()?;
            corpus.groups(Column::Band(band), &mut fates, |group, fates| {
                let first = corpus.sketch(group[0])?;
                for &document in &group[1..] {
                    if similarity(&first, &corpus.sketch(document)?) >= threshold {
                        fates.drop(document, DropReason::NearDuplicate);
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(fates)
}

/// Withdrawn numbers with the number of documents that came before, sorted.
fn withdrawals(segments: &[Segment], accounts: &[Account]) -> Vec<(u64, usize)> {
    let mut sizes = segments.iter().map(|segment| segment.documents);
    let mut before = 0;
    let mut withdrawn = Vec::new();
    for account in accounts {
        let at = |&(number, within): &(u64, u64)| (number, before + within as usize);
        withdrawn.extend(account.deleted.iter().map(at));
        before += sizes.by_ref().take(account.segments).sum::<usize>();
    }
    withdrawn.sort_unstable();
    withdrawn
}

fn revisions(
    corpus: &Corpus,
    withdrawn: &[(u64, usize)],
    fates: &mut Fates,
) -> Result<(), DataError> {
    corpus.groups_of_any_size(Column::Number, fates, |number, group, fates| {
        if number == 0 {
            return Ok(());
        }
        let from = withdrawn.partition_point(|&(n, _)| n < number);
        let last = withdrawn[from..].iter().take_while(|&&(n, _)| n == number).last();
        if let Some(&(_, before)) = last {
            group.iter().filter(|&&d| d < before).for_each(|&d| fates.drop(d, DropReason::Deleted));
        }
        let mut newest: Option<(u64, usize)> = None;
        for &document in group.iter().filter(|_| group.len() > 1) {
            if fates.stays(document) {
                let revision = (corpus.value(Column::Version, document)?, document);
                let older = match newest {
                    Some(known) if known > revision => document,
                    Some(known) => {
                        newest = Some(revision);
                        known.1
                    }
                    None => {
                        newest = Some(revision);
                        continue;
                    }
                };
                fates.drop(older, DropReason::Replaced);
            }
        }
        Ok(())
    })
}

/// All documents, by number.
struct Corpus<'a> {
    segments: &'a [Segment],
    /// Number of each segment's first document.
    starts: Vec<usize>,
    documents: usize,
}

impl<'a> Corpus<'a> {
    fn new(segments: &'a [Segment]) -> Self {
        let mut documents = 0;
        let start = |segment: &Segment| {
            documents += segment.documents;
            documents - segment.documents
        };
        let starts = segments.iter().map(start).collect();
        Self { segments, starts, documents }
    }

    fn place(&self, document: usize) -> (&Segment, usize) {
        let segment = self.starts.partition_point(|&start| start <= document) - 1;
        (&self.segments[segment], document - self.starts[segment])
    }

    fn value(&self, column: Column, document: usize) -> Result<u64, DataError> {
        let (segment, at) = self.place(document);
        segment.value(column, at)
    }

    fn sketch(&self, document: usize) -> Result<[u8; 128], DataError> {
        let (segment, at) = self.place(document);
        segment.sketch(at)
    }

    /// Calls `each` with every two or more documents that stay and share a value, in order.
    fn groups(
        &self,
        column: Column,
        fates: &mut Fates,
        mut each: impl FnMut(&[usize], &mut Fates) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        self.groups_of_any_size(column, fates, |_, group, fates| {
            if group.len() > 1 { each(group, fates) } else { Ok(()) }
        })
    }

    fn groups_of_any_size(
        &self,
        column: Column,
        fates: &mut Fates,
        mut each: impl FnMut(u64, &[usize], &mut Fates) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let ranges = self.documents.div_ceil(TABLE).max(1) as u64;
        for range in 0..ranges {
            let mut table: Vec<(u64, u32)> = Vec::new();
            for (segment, start) in self.segments.iter().zip(&self.starts) {
                for (at, value) in segment.column(column)?.into_iter().enumerate() {
                    let document = start + at;
                    // Keys are spread by a multiplication: numbers are not random.
                    let spread = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                    if fates.stays(document) && (spread * ranges) >> 32 == range {
                        table.push((value, document as u32));
                    }
                }
            }
            table.par_sort_unstable();
            let mut group = Vec::new();
            for chunk in table.chunk_by(|left, right| left.0 == right.0) {
                group.clear();
                group.extend(chunk.iter().map(|&(_, document)| document as usize));
                each(chunk[0].0, &group, fates)?;
            }
        }
        Ok(())
    }
}
