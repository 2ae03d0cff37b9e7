//! What is refused of any task's examples.

use super::{Request, TaskData};
use crate::error::Error;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Refuses examples that are in test and in train or dev, by id or, if wanted, by source.
pub(super) fn overlap(
    data: &TaskData,
    request: &Request<'_>,
    by_source: bool,
) -> Result<(), Error> {
    if request.allow_overlap {
        return Ok(());
    }
    let tested: HashSet<&str> = data.test.iter().map(|example| &*example.id).collect();
    let compared = if by_source { &data.test[..] } else { &[] };
    let sources: HashMap<(&str, &str), &str> =
        compared.iter().map(|e| ((&*e.head, &*e.passage), &*e.id)).collect();
    let stages = data.stages.iter().flat_map(|s| [(&*s.name, &s.train), (&*s.name, &s.dev)]);
    let parts = [("train", &data.train), ("dev", &data.dev)].into_iter().chain(stages);
    for (part, example) in parts.flat_map(|(part, list)| list.iter().map(move |e| (part, e))) {
        let id = &example.id;
        let folder = &request.folders[0];
        let advice = "take it out, or allow it with --allow-overlap";
        if tested.contains(&**id) {
            let problem = format!("example {id} is in {part} and in test: {advice}");
            return Err(Error::malformed(folder, problem));
        }
        if let Some(twin) = sources.get(&(&*example.head, &*example.passage)) {
            let problem =
                format!("example {id} of {part} has the source of {twin} in test: {advice}");
            return Err(Error::malformed(folder, problem));
        }
    }
    Ok(())
}

/// Refuses an id that appears twice in a part of what is in `path`.
pub(super) fn ids<'a>(
    path: &Path,
    part: &str,
    ids: impl Iterator<Item = &'a str>,
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            let problem = format!("{part}id {id} appears twice: keep one of them");
            return Err(Error::malformed(path, problem));
        }
    }
    Ok(())
}
