//! Data of one's own: texts become a dataset folder of checksummed shards, and come back as batches.
//!
//! `cargo run --release --example own_data`

use std::ops::ControlFlow;
use std::sync::Arc;

use mediswift::data::{Preparation, prepare};
use mediswift::{Batches, Dataset, Split};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("mediswift-own-data-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    // One JSON object a line; `title` and `abstract` would do as well, or XML of PubMed, or plain text.
    let drugs = ["Aspirin", "Metformin", "Insulin", "Warfarin", "Digoxin", "Heparin"];
    let lines: String = (0..600)
        .map(|at| {
            let drug = drugs[at % drugs.len()];
            format!(
                "{{\"id\": {at}, \"text\": \"{drug} was given to group {at} of the patients.\"}}\n"
            )
        })
        .collect();
    let corpus = folder.join("corpus.jsonl");
    std::fs::write(&corpus, lines)?;

    let mut preparation = Preparation::new(vec![corpus], folder.join("dataset"));
    preparation.validation_fraction = 0.1;
    // These texts resemble each other on purpose.
    preparation.cleaning.near_duplicates = None;
    let manifest = prepare(&preparation, &mut |_| ControlFlow::Continue(()))?;
    println!(
        "{} documents, {} tokens of a vocabulary of {}",
        manifest.documents, manifest.tokens, manifest.vocab_size
    );

    // Windows of sixteen tokens in an order that the seed determines, without end.
    let dataset = Arc::new(Dataset::open(&preparation.out)?);
    let tokenizer = dataset.tokenizer()?;
    let mut batches = Batches::new(dataset, Split::Train, 16, 1)?;
    for _ in 0..3 {
        let sequence = batches.next_sequence()?;
        println!("{:?}", tokenizer.decode(&sequence.inputs)?);
        assert_eq!(sequence.inputs[1..], sequence.targets[..15], "targets are one token ahead");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
