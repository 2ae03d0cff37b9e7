//! The model as a function: its two ways to compute, and what it refuses.

mod support;

use mediswift_data::tokenizer::END_OF_TEXT;
use mediswift_engine::{Arena, Gradients, Parameters, Shape, TokenLayout};
use mediswift_model::decode::Decoder;
use mediswift_model::error::ErrorKind;
use mediswift_model::generate::{Finish, GenerateOptions, generate, generate_aloud, generate_many};
use mediswift_model::score::{Query, encode_pair, evaluate_texts, score, score_watched};
use mediswift_model::watch::Progress;
use mediswift_model::{Config, Error, Gpt, Optimisation, TokenBatch};
use std::ops::ControlFlow;

const LAYOUT: TokenLayout = TokenLayout { sequences: 2, context: 19 };

fn model(sparsity: f64) -> Gpt {
    let mut config = support::config(sparsity);
    config.model.vocabulary = 300;
    let mut gpt = Gpt::new(&config).unwrap();
    // Larger gains than a new model's, and other values of about 0.1, so that every path shows in the logits.
    for (_, values) in gpt.parameters_mut().iter_mut() {
        for (i, value) in values.iter_mut().enumerate() {
            let scale = if *value == 1.0 { 5.0 } else { 0.9 };
            *value = scale * *value + 0.1 * (i as f32 * 0.618).sin();
        }
    }
    gpt.refresh();
    gpt
}

fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| i * i * 7 % 300).collect()
}

/// The log-likelihood of every token but the first, token by token, and whether it is the likeliest.
fn token_by_token(gpt: &Gpt, ids: &[u32]) -> Vec<(f64, bool)> {
    let mut decoder = Decoder::new(gpt);
    let pair = |pair: &[u32]| {
        decoder.feed(pair[0]).unwrap();
        let logits = decoder.logits();
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let own = logits[pair[1] as usize];
        (f64::from(own) - total.ln(), logits.iter().all(|&other| other <= own))
    };
    ids.windows(2).map(pair).collect()
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
        expected -= token_by_token(&gpt, &ids).iter().map(|token| token.0).sum::<f64>();
    }
    assert!((loss.sum / expected - 1.0).abs() < 1e-5, "{} is not {expected}", loss.sum);
    assert_eq!(loss.weight, LAYOUT.tokens() as f64);

    let mut gradients = Gradients::zeros(gpt.parameters().layout());
    let trained =
        gpt.loss_and_gradients(&batch, loss.weight, &mut gradients, &mut Arena::default()).unwrap();
    assert!((trained.sum / loss.sum - 1.0).abs() < 1e-6);
}

#[test]
fn texts_in_batches_score_as_token_by_token() {
    for sparsity in [0.0, 0.75] {
        let gpt = model(sparsity);
        let all = ids(33);
        let texts: Vec<&[u32]> = (0..=33).map(|len| &all[..len]).collect();
        let queries: Vec<Query<'_>> = texts.iter().map(|ids| Query::all(ids)).collect();
        let scores = score(&gpt, &queries, 3).unwrap();
        for (ids, found) in texts.iter().zip(&scores) {
            let expected = token_by_token(&gpt, ids);
            assert_eq!(found.tokens.len(), expected.len());
            assert!(!found.cut);
            for (found, (logprob, likeliest)) in found.tokens.iter().zip(&expected) {
                assert!((found.logprob - logprob).abs() < 1e-4, "{found:?} is not {logprob}");
                assert_eq!(found.top.len(), 3);
                assert_eq!(found.top[0].1 == found.logprob, *likeliest);
            }
            assert_eq!(found.is_greedy, expected.iter().all(|token| token.1));
            // Neither its company in the batch nor the number of threads changes a bit.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let alone = pool.install(|| score(&gpt, &[Query::all(ids)], 3).unwrap());
            assert_eq!(alone[0], *found);
        }
        // The token after the last.
        let next = score(&gpt, &[Query { ids: &all[..32], from: 32, next: true }], 2).unwrap();
        assert!(next[0].tokens.is_empty() && next[0].next.len() == 2);
        let mut decoder = Decoder::new(&gpt);
        decoder.read(&all[..32]).unwrap();
        let logits = decoder.logits();
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(logits[next[0].next[0].0 as usize], best);
    }
    let gpt = model(0.75);
    let error = score(&gpt, &[Query::all(&[1, 300])], 1).unwrap_err().to_string();
    assert!(error.contains("token 300 at position 1"), "{error}");
}

#[test]
fn long_texts_are_scored_in_windows() {
    let gpt = model(0.75);
    let ids = ids(100);
    let queries = [Query::all(&ids), Query { ids: &ids, from: 90, next: false }];
    let [whole, end] = &score(&gpt, &queries, 1).unwrap()[..] else { panic!("two queries") };
    assert!(whole.cut && end.cut);
    assert_eq!((whole.tokens.len(), end.tokens.len()), (99, 10));
    // Full at first, then half the positions at a time.
    for (from, wanted, to) in [(0, 0, 32), (16, 32, 48), (32, 48, 64), (67, 96, 99)] {
        let expected = token_by_token(&gpt, &ids[from..=to]);
        for token in wanted..to {
            let difference = whole.tokens[token].logprob - expected[token - from].0;
            assert!(difference.abs() < 1e-4, "token {token} is off by {difference}");
        }
    }
    let expected = token_by_token(&gpt, &ids[100 - 33..]);
    for (found, expected) in end.tokens.iter().zip(&expected[22..]) {
        assert!((found.logprob - expected.0).abs() < 1e-4);
    }
}

#[test]
fn documents_are_evaluated_after_the_end_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = support::dataset(folder.path(), 1).tokenizer().unwrap();
    let gpt = model(0.75);
    let texts = ["patients", "", "with"];
    let given = texts.iter().map(|text| Ok::<_, mediswift_model::Error>(text.to_string()));
    let found = evaluate_texts(&gpt, &tokenizer, given).unwrap();
    let (mut sum, mut means, mut tokens) = (0.0, 0.0, 0);
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (ids, from) = encode_pair(&tokenizer, "", text);
        assert_eq!((ids[0], from), (tokenizer.end_of_text(), 1));
        let loss: f64 = -token_by_token(&gpt, &ids).iter().map(|token| token.0).sum::<f64>();
        (sum, means) = (sum + loss, means + loss / (ids.len() - 1) as f64);
        tokens += ids.len() as u64 - 1;
    }
    assert_eq!((found.tokens, found.documents, found.empty, found.bytes), (tokens, 2, 1, 12));
    assert!((found.val_loss - sum / tokens as f64).abs() < 1e-5);
    assert!((found.document_loss - means / 2.0).abs() < 1e-5);
    assert!((found.bits_per_byte - sum / 12.0 / 2f64.ln()).abs() < 1e-5);

    // White space between a context and its continuation belongs to the continuation.
    let (ids, from) = encode_pair(&tokenizer, "patients ", "with");
    assert_eq!(tokenizer.decode(&ids[..from]).unwrap(), "patients");
    assert_eq!(tokenizer.decode(&ids[from..]).unwrap(), " with");
}

#[test]
fn a_prompt_is_read_at_once_as_token_by_token() {
    let gpt = model(0.75);
    for len in [1, 2, 15, 16, 17, 32] {
        let ids = ids(len + 1);
        let (mut fed, mut read) = (Decoder::new(&gpt), Decoder::new(&gpt));
        ids[..len].iter().for_each(|&id| fed.feed(id).unwrap());
        read.read(&ids[..len]).unwrap();
        assert_eq!(fed.position(), read.position());
        for more in [false, true] {
            if more && !fed.is_full() {
                fed.feed(ids[len]).unwrap();
                read.feed(ids[len]).unwrap();
            }
            for (a, b) in fed.logits().iter().zip(read.logits()) {
                assert!((a - b).abs() < 1e-4, "{b} is not {a} after {len} tokens");
            }
        }
    }
    let error = Decoder::new(&gpt).read(&ids(33)).unwrap_err().to_string();
    assert!(error.contains("33 tokens exceeds the model's 32"), "{error}");
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

    // Samples differ, and do not depend on each other; what is told piece by piece is the text.
    let samples = generate_many(
        &gpt,
        &[prompt.clone(), vec![1], prompt.clone()],
        3,
        &random,
        &tokenizer,
        &mut (),
    )
    .unwrap();
    assert_eq!(samples[0].ids, again);
    assert_eq!(samples.len(), 9);
    assert!(samples[..3].iter().zip(&samples[6..]).all(|(a, b)| a.ids == b.ids));
    assert!(samples[1].ids != again && samples[1].ids != samples[2].ids);
    let mut told = Vec::new();
    let aloud = generate_aloud(
        &gpt,
        &prompt,
        1,
        &random,
        &tokenizer,
        &mut |piece| {
            told.push(piece.to_string());
            std::ops::ControlFlow::Continue(())
        },
        &mut (),
    );
    assert_eq!(told.concat(), samples[1].text);
    assert_eq!(aloud.unwrap().ids, samples[1].ids);
    let mut cancel = |_: &str| std::ops::ControlFlow::Break(());
    let cut = generate_aloud(&gpt, &prompt, 1, &random, &tokenizer, &mut cancel, &mut ()).unwrap();
    assert!(cut.finish == Finish::Cancelled && cut.ids.len() < 5, "{cut:?}");

    // Predictions are those of scoring; the end token has one too.
    let end = GenerateOptions { end_token: Some(first.ids[4]), ..greedy.clone() };
    let with = GenerateOptions { top_logprobs: Some(2), ..end };
    let found = generate(&gpt, &prompt, &with, &tokenizer).unwrap();
    assert_eq!((found.finish, found.predictions.len()), (Finish::EndToken, found.ids.len() + 1));
    let all: Vec<u32> = prompt.iter().chain(&found.ids).chain(&first.ids[4..]).copied().collect();
    let query = Query { ids: &all, from: prompt.len(), next: false };
    for (a, b) in found.predictions.iter().zip(&score(&gpt, &[query], 2).unwrap()[0].tokens) {
        assert!((a.logprob - b.logprob).abs() < 1e-4);
        assert_eq!((a.top[0].0, a.top[1].0), (b.top[0].0, b.top[1].0));
        assert_eq!(a.top[0].1, a.logprob);
    }

    let long = tokenizer.encode(&END_OF_TEXT.repeat(10));
    let error = generate(&gpt, &long, &greedy, &tokenizer).unwrap_err().to_string();
    assert!(error.contains("exceeds the model's 32 positions"), "{error}");
    assert!(generate(&gpt, &[], &greedy, &tokenizer).is_err());
}

#[test]
fn a_window_slides_past_the_positions() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = support::dataset(folder.path(), 1).tokenizer().unwrap();
    let mut config = support::config(0.75);
    config.model.vocabulary = tokenizer.vocab_size();
    let gpt = Gpt::new(&config).unwrap();
    let prompt = tokenizer.encode("patients with");
    let short = GenerateOptions { temperature: 0.0, max_tokens: 100, ..Default::default() };
    let cut = generate(&gpt, &prompt, &short, &tokenizer).unwrap();
    assert_eq!(cut.finish, Finish::ContextFull);
    let long = GenerateOptions { past_context: true, top_logprobs: Some(1), ..short };
    let whole = generate(&gpt, &prompt, &long, &tokenizer).unwrap();
    assert_eq!((whole.ids.len(), whole.finish), (100, Finish::MaxTokens));
    assert_eq!(whole.ids[..cut.ids.len()], cut.ids);
    assert_eq!(whole.predictions.len(), 100);

    // Every token is the likeliest after a window that begins anew where the one before is full.
    let all: Vec<u32> = prompt.iter().chain(&whole.ids).copied().collect();
    let (mut begins, mut decoder) = (0, Decoder::new(&gpt));
    decoder.read(&prompt).unwrap();
    for end in prompt.len()..all.len() {
        if end - begins > 32 {
            begins = end - 16;
            decoder = Decoder::new(&gpt);
            decoder.read(&all[begins..end]).unwrap();
        } else if end > prompt.len() {
            decoder.feed(all[end - 1]).unwrap();
        }
        let logits = decoder.logits();
        assert!(logits.iter().all(|&logit| logit <= logits[all[end] as usize]), "token {end}");
    }
}

#[test]
fn generation_and_scoring_stop_when_their_watch_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = support::dataset(folder.path(), 1).tokenizer().unwrap();
    let mut config = support::config(0.75);
    config.model.vocabulary = tokenizer.vocab_size();
    let gpt = Gpt::new(&config).unwrap();
    let mut left = 5;
    let mut watch = |_: Progress<'_>| {
        left -= 1;
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let options = GenerateOptions { past_context: true, max_tokens: 1 << 40, ..Default::default() };
    let stopped = generate_many(&gpt, &[vec![1]], 2, &options, &tokenizer, &mut watch);
    assert!(matches!(stopped, Err(Error::Stopped)));
    let mut stop = |_: Progress<'_>| ControlFlow::Break(());
    let mut listen = |_: &str| ControlFlow::Continue(());
    let stopped = generate_aloud(&gpt, &[1], 0, &options, &tokenizer, &mut listen, &mut stop);
    assert!(matches!(stopped, Err(Error::Stopped)));
    let ids = [1, 2, 3];
    let stopped = score_watched(&gpt, &[Query::all(&ids)], 1, &mut stop);
    assert!(matches!(stopped, Err(Error::Stopped)));
}

#[test]
fn what_overflows_is_no_text_and_no_score() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = support::dataset(folder.path(), 1).tokenizer().unwrap();
    let mut config = support::config(0.75);
    config.model.vocabulary = tokenizer.vocab_size();
    for tensor in ["ln_final.weight", "blocks.0.mlp.down.weight"] {
        let mut gpt = Gpt::new(&config).unwrap();
        let id = gpt.parameters().find(tensor).unwrap();
        gpt.parameters_mut()[id].fill(3e38);
        gpt.refresh();
        for temperature in [0.0, 1.0] {
            let options = GenerateOptions { temperature, ..Default::default() };
            let error = generate(&gpt, &[1, 2], &options, &tokenizer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NonFinite, "{tensor}: {error}");
        }
        let error = score(&gpt, &[Query::all(&[1, 2, 3])], 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite, "{tensor}: {error}");
    }
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let gpt = model(0.75);
    let mut gradients = Gradients::zeros(gpt.parameters().layout());
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
    let parameters = || model(0.75).parameters().clone();
    let error = |config: &Config, parameters| {
        Gpt::from_parameters(config, parameters).err().unwrap().to_string()
    };
    assert!(Gpt::from_parameters(&config, parameters()).is_ok());

    let mut dense = config.clone();
    dense.sparsity.sparsity = 0.0;
    assert!(error(&dense, parameters()).contains("which has a mask"));
    let full = model(0.0).parameters().clone();
    assert!(error(&config, full).contains("'blocks.0.attn.qkv.weight', which has no mask"));

    let all = parameters();
    let tensors = all.iter().map(|(_, t)| (t.name, t.shape.clone(), t.values));
    let extra = tensors.chain([("lm_head.weight", Shape::Vector(1), &[0.0][..])]);
    let extra = Parameters::from_tensors(extra);
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

#[test]
fn absurd_settings_make_no_model_and_no_optimiser() {
    let refused = |change: fn(&mut Config), key: &str| {
        let mut config = Config::from_preset("micro").unwrap();
        config.model.vocabulary = 50;
        let gpt = Gpt::new(&config).unwrap();
        let parameters = gpt.parameters().clone();
        change(&mut config);
        let errors = match key.split_once('.') {
            Some(("model" | "sparsity" | "kernels", _)) => vec![
                Gpt::new(&config).err().expect("an error"),
                Gpt::from_parameters(&config, parameters).err().expect("an error"),
            ],
            _ => vec![Optimisation::new(gpt, &config).err().expect("an error")],
        };
        for error in errors {
            assert!(error.to_string().contains(key), "{error}");
        }
    };
    refused(|config| config.model.vocabulary = 0, "model.vocabulary");
    refused(|config| config.model.layers = 0, "model.layers");
    refused(|config| config.model.heads = 0, "model.heads");
    refused(|config| config.model.heads = 5, "model.heads");
    refused(|config| config.model.d_model = usize::MAX, "model.d_model");
    refused(|config| config.model.context = 0, "model.context");
    refused(|config| config.sparsity.sparsity = 7.0, "sparsity.sparsity");
    refused(|config| config.sparsity.sparsity = f64::NAN, "sparsity.sparsity");
    refused(|config| config.train.lr = -1.0, "train.lr");
    refused(|config| config.train.lr = f64::NAN, "train.lr");
    refused(|config| config.optimiser.beta1 = 7.0, "beta1");
    refused(|config| config.optimiser.clip_norm = 0.0, "clip_norm");
}
