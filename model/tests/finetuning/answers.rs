//! What a model reads of an example, what it answers, and how that is scored.

use crate::{pretrained, question};
use mediswift_model::finetune::answer::Answerer;
use mediswift_model::finetune::encode::ExampleEncoder;
use mediswift_model::generate::{GenerateOptions, generate};
use mediswift_model::run::{self, LoadedModel};
use mediswift_model::tasks::metrics::{
    Flags, accuracy, example_based, macro_f1, multilabel_macro_f1, multilabel_micro_f1,
};
use mediswift_model::tasks::{Example, task};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn sources_are_cut_where_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.0);
    let LoadedModel { gpt, tokenizer, .. } = run::load_model(&from).unwrap();
    let example = |head: &str, passage: &str| Example {
        id: "x".into(),
        head: head.into(),
        passage: passage.into(),
        labels: vec![2],
    };
    let short = example("question: Does alpha help? context:", "It improved.");
    let long = example(&short.head, &("Many words came first. ".repeat(30) + "It improved."));
    let hopeless = example(&"Does alpha help? ".repeat(40), "It improved.");
    let examples = [short, long, hopeless];
    let encoder = ExampleEncoder::new(task("pubmedqa").unwrap(), &tokenizer, &gpt, examples.iter());
    let (encoded, fit) = encoder.encode(&examples, &mut ()).unwrap();
    assert_eq!((fit.examples, fit.cut, fit.unusable), (3, 1, 1));
    let [Some(short), Some(long), None] = &encoded[..] else { panic!("{encoded:?}") };
    let text = |ids: &[u32]| tokenizer.decode(ids).unwrap();
    let end = tokenizer.end_of_text();
    let short_positions = short.prefix.len() - 1 + encoder.longest_target();
    assert_eq!(text(&short.prefix[1..]), "question: Does alpha help? context: It improved.");
    assert_eq!((short.prefix[0], *short.target.last().unwrap()), (end, end));
    let cut = text(&long.prefix[1..]);
    assert!(cut.starts_with("question: Does alpha help? context:"), "{cut}");
    assert!(cut.ends_with("came first. It improved."), "{cut}");
    assert_eq!(long.prefix.len() - 1 + encoder.longest_target(), gpt.size().context);
    assert!(fit.tokens_lost > 30);
    // What nothing is cut from, were the model that long.
    let lost = |examples: &[Example]| encoder.encode(examples, &mut ()).unwrap().1;
    let whole = lost(&examples[1..2]);
    assert_eq!(whole.needed, gpt.size().context + whole.tokens_lost);
    assert_eq!(lost(&examples[..1]).needed, short_positions);
    assert_eq!(fit.needed, lost(&examples[2..]).needed.max(whole.needed));
    let target = text(&long.target[..long.target.len() - 1]);
    assert_eq!(target, " the answer to the question given the context is maybe.");
    let message = encoder.encode_to_train(&examples[2..], &mut ()).unwrap_err().to_string();
    assert!(
        message.contains("none of 1 training examples fits the model's 64 positions"),
        "{message}"
    );
}

#[test]
fn drafts_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let from = pretrained(folder.path(), 0.5);
    let LoadedModel { gpt, tokenizer, .. } = run::load_model(&from).unwrap();
    let pubmedqa = task("pubmedqa").unwrap();
    let examples: Vec<Example> = (0..30)
        .map(|i| {
            let (question, passage, _) = question(i);
            let head = format!("question: {question} context:");
            Example { id: i.to_string(), head, passage, labels: vec![i % 3] }
        })
        .collect();
    let encoder = ExampleEncoder::new(pubmedqa, &tokenizer, &gpt, examples.iter());
    let (encoded, _) = encoder.encode(&examples, &mut ()).unwrap();
    let mut answerer = Answerer::new(&gpt, &encoder, pubmedqa, &tokenizer, &[], 7);
    let found = answerer.generate(&encoded, &mut ()).unwrap();
    let options = GenerateOptions {
        temperature: 0.0,
        max_tokens: encoder.longest_target(),
        end_token: Some(tokenizer.end_of_text()),
        ..GenerateOptions::default()
    };
    for (encoded, found) in encoded.iter().zip(found) {
        let prefix = &encoded.as_ref().unwrap().prefix;
        let text = generate(&gpt, prefix, &options, &tokenizer).unwrap().text;
        assert_eq!(pubmedqa.parse(&text), found, "{text}");
    }
}

#[test]
fn metrics_are_scikit_learns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/metrics.json");
    let goldens: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let close = |found: f64, expected: &Value, what: &str| {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{what}: {found}, not {expected}");
    };
    for case in goldens["single"].as_array().unwrap() {
        let words = |key: &str| serde_json::from_value::<Vec<String>>(case[key].clone()).unwrap();
        let (truth, answers) = (words("truth"), words("answers"));
        close(accuracy(&truth, &answers), &case["accuracy"], "accuracy");
        let truth: Vec<&str> = truth.iter().map(String::as_str).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        close(macro_f1(&truth, &answers), &case["macro_f1"], "macro-F1");
    }
    for case in goldens["multi"].as_array().unwrap() {
        let flags = |key: &str| -> Vec<Flags> {
            let rows: Vec<Vec<u8>> = serde_json::from_value(case[key].clone()).unwrap();
            rows.iter().map(|row| row.iter().map(|&flag| flag == 1).collect()).collect()
        };
        let (truth, answers) = (flags("truth"), flags("answers"));
        close(multilabel_micro_f1(&truth, &answers), &case["micro_f1"], "micro-F1");
        close(multilabel_macro_f1(&truth, &answers), &case["macro_f1"], "macro-F1 of labels");
        close(example_based(&truth, &answers).f1, &case["example_based_f1"], "example-based F1");
    }
}
