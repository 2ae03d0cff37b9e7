//! The configuration files in `recipes/` are what they say.

use mediswift_model::Config;
use mediswift_model::flops::{Convention, Workload};
use mediswift_model::presets::{PAPER_VOCABULARY, PRESETS};
use mediswift_model::schedule::Schedule;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every recipe by name, with its text.
fn recipes() -> BTreeMap<String, (Config, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut recipes = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let config = Config::from_toml(&text, &path).unwrap();
        config.validate().unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        recipes.insert(name, (config, text));
    }
    recipes
}

#[test]
fn every_size_has_its_three_recipes_and_they_differ_from_the_preset_in_sparsity_alone() {
    let mut recipes = recipes();
    for preset in PRESETS.iter().filter(|preset| preset.name != "micro") {
        for (sparsity, suffix) in [(0.0, "dense"), (0.5, "50"), (0.75, "75")] {
            let name = format!("{}-{suffix}", preset.name);
            let (config, text) = recipes.remove(&name).unwrap_or_else(|| panic!("no {name}"));
            let mut expected = Config::from_preset(preset.name).unwrap();
            expected.sparsity.sparsity = sparsity;
            expected.model.vocabulary = config.model.vocabulary;
            assert_eq!(config, expected, "{name}");
            // What its first line says.
            let work = Workload::of_run(&config);
            let weights = work.kept as f64;
            let size = match weights {
                1e9.. => format!("{:.2} B weights", weights / 1e9),
                _ => format!("{:.1} M weights", weights / 1e6),
            };
            assert!(text.contains(&size), "{name}: {size}");
            let flops = work.flops(Convention::Table6).total;
            let said = text.contains(&format!("{flops:.3e} FLOPs"));
            assert_eq!(said, config.model.vocabulary == PAPER_VOCABULARY, "{name}: {flops:.3e}");
        }
    }
    assert!(recipes.is_empty(), "recipes without a preset: {:?}", recipes.keys());
}

/// Table 5 and section 3.2, entry by entry.
#[test]
fn the_recipes_of_the_paper_are_the_papers() {
    let recipes = recipes();
    let table5 = [
        ("med", 24, 1024, 16, 302.0),
        ("large", 18, 1536, 12, 510.0),
        ("xl", 24, 2048, 16, 1208.0),
    ];
    for (name, layers, d_model, heads, millions) in table5 {
        for (suffix, sparsity) in [("dense", 0.0), ("50", 0.5), ("75", 0.75)] {
            let config = &recipes[&format!("{name}-{suffix}")].0;
            let (model, train, optimiser) = (&config.model, &config.train, &config.optimiser);
            assert_eq!((model.layers, model.d_model, model.heads), (layers, d_model, heads));
            assert_eq!((model.context, model.vocabulary), (1024, 42_384));
            assert_eq!((train.context, train.batch, train.steps), (1024, 512, 200_000));
            assert_eq!(config.micro_batches() * train.micro_batch, 512);
            assert_eq!((train.lr, optimiser.weight_decay), (2e-4, 0.1));
            assert_eq!((optimiser.beta1, optimiser.beta2, optimiser.epsilon), (0.9, 0.95, 1e-8));
            let schedule = Schedule::new(config);
            assert_eq!(schedule.warmup, 20_000);
            assert!((schedule.last - 2e-5).abs() < 1e-18);
            assert_eq!(config.sparsity.sparsity, sparsity);
            let tokens = train.steps * train.batch * train.context;
            assert_eq!(tokens, 104_857_600_000);
            let dense = config.sparsity.kept(model) as f64 / (1.0 - sparsity) / 1e6;
            assert!((dense / millions - 1.0).abs() < 2e-3, "{name}: {dense} M");
        }
    }
}
