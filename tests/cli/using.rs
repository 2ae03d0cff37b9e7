//! A trained model in use, through the command line: `score`, `eval` on files, and `generate` with
//! several prompts.

use std::fs;

use crate::common::{contents, failure, json, run};
use crate::trained::{call, numbers, trained};
use serde_json::{Value, json};

fn sum(list: &Value) -> f64 {
    numbers(list).into_iter().flatten().sum()
}

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{a} is not {b}");
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_refused_everywhere() {
    let folder = trained();
    let at = folder.path();
    let file = at.join("run/tokenizer.json");
    let whole = fs::read(&file).expect("read");
    // A file that is cut, one that still is a tokenizer, and none.
    let other = [&whole[..], b"\n"].concat();
    for damaged in [Some(&whole[..whole.len() / 2]), Some(&other), None] {
        match damaged {
            Some(bytes) => fs::write(&file, bytes).expect("write"),
            None => fs::remove_file(&file).expect("remove"),
        }
        for command_line in [
            "eval run --data dataset",
            "eval run --data corpus.jsonl",
            "score run --text aspirin",
            "generate run --prompt aspirin",
            "serve run --port 0",
            "export hf run --out hf",
            "export gguf run --out model.gguf",
        ] {
            let message = failure(&run(at, command_line), 1);
            assert!(message.contains("run/tokenizer.json"), "{command_line}: {message}");
        }
        if damaged.is_some() {
            let message = failure(&run(at, "pretrain --resume --data dataset --out run"), 1);
            assert!(message.contains("run/tokenizer.json"), "{message}");
        }
    }
    // A run that is taken up gets back what is missing.
    json(&run(at, "--json pretrain --resume --data dataset --out run"));
    assert_eq!(fs::read(&file).expect("read"), whole);
    json(&run(at, "--json eval run --data dataset"));
}

#[test]
fn scores_and_evaluations_of_texts_agree() {
    let folder = trained();
    let at = folder.path();
    let text = "We compared aspirin with placebo in patients with diabetes.";
    let scored = call(at, &["score", "run", "--text", text]);
    let logprobs = numbers(&scored["token_logprobs"]);
    let ids = scored["ids"].as_array().expect("a list");
    assert_eq!(ids.len(), logprobs.len());
    assert!(ids.len() > 5 && logprobs[0].is_none());
    assert!(logprobs[1..].iter().all(|value| value.is_some_and(|value| value < 0.0)));
    close(scored["loglikelihood"].as_f64().expect("a number"), sum(&scored["token_logprobs"]));
    // No bit depends on the number of threads.
    assert_eq!(call(at, &["--threads", "1", "score", "run", "--text", text]), scored);

    // A context and its continuation are the two parts of a text.
    let (context, rest) = text.split_at("We compared".len());
    let continuation = call(at, &["score", "run", "--context", context, "--text", rest]);
    let whole = numbers(&scored["token_logprobs"]);
    let part = numbers(&continuation["token_logprobs"]);
    assert_eq!(part[..], whole[whole.len() - part.len()..]);
    assert_eq!(continuation["is_greedy"], false);
    // What the model itself would say is greedy.
    let said = call(at, &["generate", "run", "--prompt", text, "--greedy", "--max-tokens", "1"]);
    let said = said["text"].as_str().expect("a text");
    let greedy = call(at, &["score", "run", "--context", text, "--text", said]);
    assert_eq!(greedy["is_greedy"], true, "{greedy}");

    // A file: one line a document, and the same sums as `eval`.
    let long = "aspirin and placebo ".repeat(60);
    let lines = [json!({"text": text, "id": 7}), json!({"title": "Aspirin", "abstract": long})];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(at.join("texts.jsonl"), &lines).expect("write");
    let file = ["score", "run", "--file", "texts.jsonl", "--context", ""];
    let listed = call(at, &file);
    let listed = listed["scores"].as_array().expect("a list");
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["id"], "ID:7");
    assert_eq!((&listed[0]["cut"], &listed[1]["cut"]), (&json!(false), &json!(true)));
    assert!(numbers(&listed[0]["token_logprobs"])[0].is_some());
    let written = call(at, &[&file[..], &["--out", "scores.jsonl"]].concat());
    assert_eq!(written["documents"], 2);
    let out = fs::read_to_string(at.join("scores.jsonl")).expect("read");
    let out: Vec<Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(&out, listed);

    let evaluated = call(at, &["eval", "run", "--data", "texts.jsonl"]);
    let tokens: usize = listed.iter().map(|l| l["ids"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(evaluated["tokens"], tokens);
    assert_eq!((&evaluated["documents"], &evaluated["cut"]), (&json!(2), &json!(1)));
    let loss: f64 = -listed.iter().map(|line| sum(&line["token_logprobs"])).sum::<f64>();
    let val_loss = evaluated["val_loss"].as_f64().expect("a number");
    close(val_loss, loss / tokens as f64);
    close(evaluated["perplexity"].as_f64().expect("a number"), val_loss.exp());
    let bytes = evaluated["bytes"].as_f64().expect("a number");
    close(evaluated["bits_per_byte"].as_f64().expect("a number"), loss / 2f64.ln() / bytes);
}

#[test]
fn several_prompts_and_samples_are_those_made_alone() {
    let folder = trained();
    let at = folder.path();
    let generate = ["generate", "run", "--max-tokens", "8"];
    let many =
        [&generate[..], &["--prompt", "Effect of", "--prompt", "", "--samples", "2"]].concat();
    let many = call(at, &many);
    let list = many["generations"].as_array().expect("a list");
    assert_eq!(list.len(), 4);
    assert_eq!(list[0]["text"], many["text"]);
    assert_ne!(list[0]["text"], list[1]["text"]);
    for (at_list, prompt) in [(0, "Effect of"), (2, "")] {
        let alone = call(at, &[&generate[..], &["--prompt", prompt]].concat());
        assert_eq!(list[at_list]["text"], alone["text"]);
        assert_eq!(list[at_list]["prompt"], prompt);
    }
}

#[test]
fn what_cannot_be_scored_is_named() {
    let folder = trained();
    let at = folder.path();
    fs::write(at.join("bad.jsonl"), "{\"text\": \"a\"}\n{\"text\": 3}\n").expect("write");
    fs::write(at.join("empty.jsonl"), "{\"text\": \"\"}\n").expect("write");
    fs::write(at.join("scores.jsonl"), "mine").expect("write");
    let before = contents(at);
    for (command_line, code, says) in [
        ("score run", 2, "--text"),
        ("score run --text x --file y", 2, "--file"),
        ("score run --text x --out y", 2, "--out"),
        ("score absent --text x", 1, "absent: holds no run"),
        ("score run --file absent.jsonl", 1, "absent.jsonl"),
        ("score run --file bad.jsonl", 1, "bad.jsonl, line 2"),
        ("score run --file bad.jsonl --out new.jsonl", 1, "bad.jsonl, line 2"),
        ("score run --file empty.jsonl --out scores.jsonl", 1, "--force"),
        ("eval run --data bad.jsonl", 1, "bad.jsonl, line 2"),
        ("eval run --data empty.jsonl", 1, "empty.jsonl: it holds no text"),
        ("eval run --data run/config.toml", 1, "run/config.toml"),
        ("generate run --prompt x --samples 0", 2, "--samples"),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
}
