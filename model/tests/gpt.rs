//! The model as a function: its two ways to compute, and what it refuses.

mod support;

use mediswift_data::tokenizer::END_OF_TEXT;
use mediswift_engine::{Arena, Gradients, Parameters, Shape, TokenLayout};
use mediswift_kernels::AlignedBuffer;
use mediswift_model::decode::Decoder;
use mediswift_model::generate::{Finish, GenerateOptions, generate, token_logprobs};
use mediswift_model::{Config, Gpt, TokenBatch};

const LAYOUT: TokenLayout = TokenLayout { sequences: 2, context: 19 };

fn model(sparsity: f64) -> Gpt {
    let mut config = support::config(sparsity);
    config.model.vocabulary = 300;
    let mut gpt = Gpt::new(&config).unwrap();
    // Larger weights than a new model's, so that every path shows in the logits.
    for (_, parameter) in gpt.parameters_mut().iter_mut() {
        for (i, value) in parameter.values.iter_mut().enumerate() {
            *value = 5.0 * *value + 0.1 * (i as f32 * 0.618).sin();
        }
    }
    gpt.refresh();
    gpt
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i * i * 7 % 300).collect()
}

fn batch() -> TokenBatch {
    let ids = ids(LAYOUT.tokens() + 1);
    let targets = ids[1..].to_vec();
    TokenBatch { layout: LAYOUT, ids: ids[..targets.len()].to_vec(), targets, weights: None }
}

#[test]
fn one_token_at_a_time_gives_the_logits_of_whole_sequences() {
    for sparsity in [0.0, 0.75] {
        let gpt = model(sparsity);
        let ids = ids(32);
        let layout = TokenLayout { sequences: 1, context: 32 };
        let expected = gpt.logits(&ids, layout).unwrap();
        let mut decoder = Decoder::new(&gpt);
        for (&id, expected) in ids.iter().zip(expected.chunks_exact(300)) {
            decoder.feed(id).unwrap();
            for (found, expected) in decoder.logits().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
            }
        }
        assert!(decoder.is_full());
        let error = decoder.feed(0).unwrap_err().to_string();
        assert!(error.contains("all 32 positions"), "{error}");
    }
}

#[test]
fn losses_are_the_negative_log_likelihoods_of_the_targets() {
    let gpt = model(0.75);
    let batch = batch();
    let loss = gpt.evaluate(&batch, &mut Arena::default()).unwrap();
    let mut expected = 0.0;
    for sequence in 0..LAYOUT.sequences {
        let range = sequence * LAYOUT.context..(sequence + 1) * LAYOUT.context;
        let mut ids = batch.ids[range.clone()].to_vec();
        ids.push(batch.targets[range.end - 1]);
        expected -= token_logprobs(&gpt, &ids).unwrap().iter().sum::<f64>();
    }
    assert!((loss.sum / expected - 1.0).abs() < 1e-5, "{} is not {expected}", loss.sum);
    assert_eq!(loss.weight, LAYOUT.tokens() as f64);

    let mut gradients = Gradients::zeros(gpt.parameters());
    let trained =
        gpt.loss_and_gradients(&batch, loss.weight, &mut gradients, &mut Arena::default()).unwrap();
    assert!((trained.sum / loss.sum - 1.0).abs() < 1e-6);
}

#[test]
fn generation_stops_where_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = support::dataset(folder.path(), 1).tokenizer().unwrap();
    let mut config = support::config(0.75);
    config.model.vocabulary = tokenizer.vocab_size();
    let gpt = Gpt::new(&config).unwrap();
    let prompt = tokenizer.encode("patients with");
    let greedy = GenerateOptions { temperature: 0.0, max_tokens: 5, ..Default::default() };
    let first = generate(&gpt, &prompt, &greedy, &tokenizer).unwrap();
    assert_eq!((first.ids.len(), first.finish), (5, Finish::MaxTokens));
    assert_eq!(first.text, tokenizer.decode(&first.ids).unwrap());

    // Greedy: every token is the likeliest.
    let mut decoder = Decoder::new(&gpt);
    prompt.iter().for_each(|&id| decoder.feed(id).unwrap());
    for &id in &first.ids {
        let logits = decoder.logits();
        assert!(logits.iter().all(|&logit| logit <= logits[id as usize]));
        decoder.feed(id).unwrap();
    }

    let full = GenerateOptions { max_tokens: 1000, ..greedy.clone() };
    let full = generate(&gpt, &prompt, &full, &tokenizer).unwrap();
    assert_eq!(full.finish, Finish::ContextFull);
    assert_eq!(full.ids.len(), 32 - prompt.len() + 1, "the last token needs no position");

    let end = GenerateOptions { end_token: Some(first.ids[0]), ..greedy.clone() };
    let end = generate(&gpt, &prompt, &end, &tokenizer).unwrap();
    assert_eq!((end.ids.len(), end.finish), (0, Finish::EndToken));

    let word = tokenizer.decode(&first.ids[..1]).unwrap();
    let stop = GenerateOptions { stop: vec!["never".into(), word], ..greedy.clone() };
    let stop = generate(&gpt, &prompt, &stop, &tokenizer).unwrap();
    assert_eq!((stop.text.as_str(), stop.finish), ("", Finish::StopString));

    let random = GenerateOptions { temperature: 1.0, seed: 7, ..greedy.clone() };
    let again = generate(&gpt, &prompt, &random, &tokenizer).unwrap().ids;
    assert_eq!(again, generate(&gpt, &prompt, &random, &tokenizer).unwrap().ids);

    let long = tokenizer.encode(&END_OF_TEXT.repeat(10));
    let error = generate(&gpt, &long, &greedy, &tokenizer).unwrap_err().to_string();
    assert!(error.contains("exceeds the model's 32 positions"), "{error}");
    assert!(generate(&gpt, &[], &greedy, &tokenizer).is_err());
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let gpt = model(0.75);
    let mut gradients = Gradients::zeros(gpt.parameters());
    let mut arena = Arena::default();
    let mut error = |batch: &TokenBatch| {
        let result = gpt.loss_and_gradients(batch, 1.0, &mut gradients, &mut arena);
        result.unwrap_err().to_string()
    };
    let mut wrong = batch();
    wrong.ids[20] = 300;
    assert!(error(&wrong).contains("token 300 at position 20"), "{}", error(&wrong));
    let mut wrong = batch();
    wrong.targets[3] = u32::MAX;
    assert!(error(&wrong).contains("at position 3"), "{}", error(&wrong));
    let layout = TokenLayout { sequences: 1, context: 33 };
    let long = TokenBatch { layout, ids: vec![0; 33], targets: vec![0; 33], weights: None };
    assert!(error(&long).contains("33 tokens exceeds the model's 32"), "{}", error(&long));
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let mut config = support::config(0.75);
    config.model.vocabulary = 300;
    let parameters = || {
        let mut copy = Parameters::default();
        for (_, p) in model(0.75).parameters().iter() {
            copy.add(p.name.clone(), p.shape.clone(), p.values.clone());
        }
        copy
    };
    let error = |config: &Config, parameters| {
        Gpt::from_parameters(config, parameters).err().unwrap().to_string()
    };
    assert!(Gpt::from_parameters(&config, parameters()).is_ok());

    let mut dense = config.clone();
    dense.sparsity.sparsity = 0.0;
    assert!(error(&dense, parameters()).contains("which has a mask"));
    let full = model(0.0).parameters().clone();
    assert!(error(&config, full).contains("'blocks.0.attn.qkv.weight', which has no mask"));

    let mut extra = parameters();
    extra.add("lm_head.weight", Shape::Vector(1), AlignedBuffer::zeros(1));
    assert!(error(&config, extra).contains("'lm_head.weight' has no place"));
    let mut deeper = config.clone();
    deeper.model.layers = 3;
    assert!(error(&deeper, parameters()).contains("'blocks.2.ln1.weight' is missing"));
    let mut wider = config.clone();
    wider.model.vocabulary = 301;
    assert!(error(&wider, parameters()).contains("shape [300, 32]"));
    let mut broken = parameters();
    let id = broken.find("ln_final.bias").unwrap();
    broken[id][5] = f32::NAN;
    assert!(error(&config, broken).contains("weight 'ln_final.bias' is NaN at element 5"));
}
