//! What `--data` says: where the data of a study is, by the names that the study gives it.

use mediswift_model::study::{Ledger, Sources, Study, Work};

use crate::verb::Exit;

/// Reads the values of `--data`: a folder, or a name and a path.
pub fn read(values: &[String]) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    for value in values {
        let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']);
        let named = value.split_once('=').filter(|(name, _)| is_name(name));
        let before = match named {
            Some((name, path)) => sources.named.insert(name.into(), path.into()),
            None => sources.trained_on.replace(value.into()),
        };
        if before.is_some() {
            let which = named.map_or("the data to train on".to_string(), |(name, _)| name.into());
            let message = format!("--data {value}: {which} is given twice");
            return Err(Exit::usage(message).into());
        }
    }
    Ok(sources)
}

/// Checks that there is data for all cells that are not finished.
pub fn check(sources: &Sources, plan: &Study, known: &Ledger) -> anyhow::Result<()> {
    for cell in plan.cells.iter().filter(|cell| known.record(&cell.name).is_none()) {
        let Some(path) = sources.of(cell) else {
            let option = match &cell.work {
                Work::Pretrain { .. } => "--data D".to_string(),
                Work::Evaluate { data, .. } | Work::Finetune { data, .. } => {
                    format!("--data {data}=D")
                }
            };
            let message = format!("{}: where is its data? Say it with {option}", cell.name);
            return Err(Exit::usage(message).into());
        };
        anyhow::ensure!(
            path.exists(),
            "{}: there is no such data, which {} needs",
            path.display(),
            cell.name
        );
    }
    Ok(())
}
