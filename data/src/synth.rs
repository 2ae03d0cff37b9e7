//! A synthetic corpus of biomedical abstracts, so that everything runs offline.
//!
//! Loss curves on random text mean nothing; here there is something to learn at every scale.
//! Words are composed from morphemes, and a drug's ending gives away its class. A class of drugs
//! has one target and helps in some organ systems only, so results follow from the names in the
//! title. A disease has one gene, one symptom and one outcome measure wherever it occurs. Numbers
//! agree between sentences: arms add up to the sample, differences are differences of the means
//! given, and the conclusion says what the results showed. Names are drawn with Zipf-like
//! frequencies, as in real text.
//!
//! Facts belong to the seed, document `i` to (seed, `i`): any part of the corpus can be made
//! alone, and the same seed always gives the same bytes. All medicine here is invented.

mod corpus;
mod draw;
mod facts;
mod papers;
mod questions;

pub use corpus::{SynthRecord, records, write};
pub use questions::write_questions;
