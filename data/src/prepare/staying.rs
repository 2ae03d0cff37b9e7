//! Reading the documents that stay.

use super::resolve::Fates;
use super::segment::{Column, Segment};
use crate::{DataError, Split};

/// The documents that stay, in order, each with its split.
pub(crate) struct Staying<'a> {
    segments: std::slice::Iter<'a, Segment>,
    pub fates: &'a Fates,
    fraction: f64,
    open: Option<(Vec<u64>, Texts)>,
    within: usize,
    document: usize,
}

type Texts = Box<dyn Iterator<Item = Result<String, DataError>> + Send>;

impl<'a> Staying<'a> {
    pub fn new(segments: &'a [Segment], fates: &'a Fates, fraction: f64) -> Self {
        Self { segments: segments.iter(), fates, fraction, open: None, within: 0, document: 0 }
    }

    /// The next document with its split; `None` after the last.
    pub fn next_one(&mut self) -> Result<Option<(String, Split)>, DataError> {
        loop {
            let Some((draws, texts)) = &mut self.open else {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                self.open = Some((segment.column(Column::Draw)?, Box::new(segment.texts()?)));
                self.within = 0;
                continue;
            };
            let Some(text) = texts.next().transpose()? else {
                self.open = None;
                continue;
            };
            let draw = draws[self.within];
            self.within += 1;
            self.document += 1;
            if self.fates.stays(self.document - 1) {
                return Ok(Some((text, Split::of(draw, self.fraction))));
            }
        }
    }
}

impl Iterator for Staying<'_> {
    type Item = Result<(String, Split), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_one().transpose()
    }
}
