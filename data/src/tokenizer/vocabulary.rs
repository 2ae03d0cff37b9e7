//! What the file of a tokenizer holds.

use std::collections::HashMap;

use super::kind::Kind;
use crate::error::TokenizerProblem;

/// Tokens, and how words are made of them.
pub(crate) struct Vocabulary {
    pub kind: Kind,
    /// Token strings by id.
    pub tokens: Vec<String>,
    /// Pairs to join, in order of rank.
    pub merges: Vec<(String, String)>,
}

/// Tokens sorted by id, which must go from 0 without gaps.
pub(crate) fn in_order(tokens: HashMap<String, u32>) -> Result<Vec<String>, TokenizerProblem> {
    let mut sorted: Vec<(u32, String)> = tokens.into_iter().map(|(t, id)| (id, t)).collect();
    sorted.sort_unstable();
    if let Some((expected, (id, token))) =
        (0..).zip(&sorted).find(|(expected, (id, _))| expected != id)
    {
        return Err(if *id < expected {
            TokenizerProblem::SharedId { token: token.clone(), id: *id }
        } else {
            TokenizerProblem::MissingId { tokens: sorted.len(), id: expected }
        });
    }
    Ok(sorted.into_iter().map(|(_, token)| token).collect())
}
