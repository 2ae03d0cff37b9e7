//! A trained model in use, through the command line: `score`, `eval` on files, `generate` with
//! several prompts, and `serve` with an HTTP client.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use common::{contents, failure, json, program, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with `corpus.jsonl`, `dataset/` with a vocabulary of 500, and a trained `run/` with 64
/// positions.
fn trained() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path();
    json(&run(at, "--json data synth --documents 150 --seed 4 --out corpus.jsonl"));
    let prepare =
        "--json data prepare corpus.jsonl --out dataset --vocab-size 500 --validation 0.1";
    json(&run(at, prepare));
    let pretrain = "--json pretrain --preset micro --data dataset --sparsity 0.75 --out run \
                    --set train.steps=40 --set train.batch=4 --set train.lr=5e-3 \
                    --set eval.sequences=0";
    json(&run(at, pretrain));
    folder
}

/// The JSON object of a call whose arguments may hold blanks.
#[track_caller]
fn call(at: &Path, arguments: &[&str]) -> Value {
    json(&program(at).arg("--json").args(arguments).output().expect("the program starts"))
}

fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array()
        .unwrap_or_else(|| panic!("{list} is no list"))
        .iter()
        .map(Value::as_f64)
        .collect()
}

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
fn what_cannot_be_scored_or_served_is_named() {
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
        ("serve absent", 1, "absent: holds no run"),
        ("serve run --port 70000", 2, "--port"),
        ("serve run --host localhost:8", 2, "--host"),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
}

/// A server on a free port, ended with the test.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(at: &Path) -> Self {
        let mut child = program(at)
            .args(["--json", "serve", "run", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(told["model"], "run");
        Self { child, url: told["url"].as_str().expect("a URL").to_owned() }
    }

    /// Status and body of an answer.
    fn ask(&self, path: &str, body: Option<&str>) -> (u16, String) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{}{path}", self.url);
        let answer = match body {
            Some(body) => agent.post(&url).content_type("application/json").send(body),
            None => agent.get(&url).call(),
        };
        let mut answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_to_string().expect("a body"))
    }

    #[track_caller]
    fn complete(&self, body: Value) -> Value {
        let (status, answer) = self.ask("/v1/completions", Some(&body.to_string()));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).expect("JSON")
    }
}

#[test]
fn the_server_answers_as_score_and_generate_do() {
    let folder = trained();
    let at = folder.path();
    let server = Server::start(at);
    let (status, models) = server.ask("/v1/models", None);
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("run")));
    assert!(models["data"][0]["notice"].as_str().is_some_and(|n| n.contains("research only")));
    assert_eq!(server.ask("/v1/models/run", None).0, 200);
    assert_eq!(server.ask("/health", None).0, 200);

    // Log-likelihoods of prompts, as evaluation harnesses ask for them.
    let texts = ["We compared aspirin with placebo.", "Effect", "Patients and insulin in a trial"];
    let scored = texts.map(|text| call(at, &["score", "run", "--text", text]));
    let echo = |prompt: Value, max_tokens: usize| {
        server.complete(json!({
            "model": "run", "prompt": prompt, "temperature": 0, "max_tokens": max_tokens,
            "logprobs": 1, "seed": 1234, "echo": true,
        }))
    };
    let ids: Vec<&Value> = scored.iter().map(|scored| &scored["ids"]).collect();
    for (prompt, max_tokens) in [(json!(texts), 0), (json!(ids), 0), (json!(texts), 1)] {
        let answer = echo(prompt, max_tokens);
        let choices = answer["choices"].as_array().expect("a list");
        assert_eq!(choices.len(), 3);
        for (index, (choice, scored)) in choices.iter().zip(&scored).enumerate() {
            assert_eq!(choice["index"], index);
            let logprobs = &choice["logprobs"];
            let found = numbers(&logprobs["token_logprobs"]);
            let expected = numbers(&scored["token_logprobs"]);
            assert_eq!(found[..expected.len()], expected);
            // One more token was asked for or not, even if it ends the text.
            assert_eq!(found.len(), expected.len() + max_tokens);
            for key in ["tokens", "top_logprobs", "text_offset"] {
                assert_eq!(logprobs[key].as_array().map(Vec::len), Some(found.len()), "{key}");
            }
            let text = choice["text"].as_str().expect("a text");
            assert!(text.starts_with(texts[index]));
            if max_tokens == 0 {
                assert_eq!(text, texts[index]);
            }
            let named: Vec<&str> = logprobs["tokens"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            for (at_token, offset) in numbers(&logprobs["text_offset"]).iter().enumerate() {
                assert_eq!(*offset, Some(named[..at_token].concat().chars().count() as f64));
            }
            let tops = logprobs["top_logprobs"].as_array().expect("a list");
            for ((top, own), name) in tops.iter().zip(&found).zip(&named).skip(1) {
                assert_eq!(top[*name].as_f64(), *own);
            }
        }
        let tokens: usize = ids.iter().filter_map(|ids| Some(ids.as_array()?.len())).sum();
        assert_eq!(answer["usage"]["prompt_tokens"], tokens);
    }

    // Continuations: the same seed gives what `generate` gives.
    let generate = ["generate", "run", "--prompt", "Effect of", "--max-tokens", "12"];
    let seeded =
        [&generate[..], &["--seed", "5", "--temperature", "1", "--top-p", "0.9", "--samples", "2"]];
    let expected = call(at, &seeded.concat());
    let wanted = json!({"prompt": "Effect of", "max_tokens": 12, "seed": 5, "top_p": 0.9, "n": 2});
    let answer = server.complete(wanted.clone());
    for (index, expected) in expected["generations"].as_array().expect("a list").iter().enumerate()
    {
        assert_eq!(answer["choices"][index]["text"], expected["text"]);
    }
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    // A batch gives what each prompt gives alone.
    let batch = server.complete(json!({
        "prompt": ["Aspirin", "Effect of"], "max_tokens": 12, "seed": 5, "top_p": 0.9, "n": 2,
    }));
    assert_eq!(batch["choices"][2]["text"], answer["choices"][0]["text"]);
    // Piece by piece, the pieces are the text.
    let mut streamed = wanted;
    (streamed["stream"], streamed["stream_options"]) =
        (json!(true), json!({"include_usage": true}));
    let (status, events) = server.ask("/v1/completions", Some(&streamed.to_string()));
    assert_eq!(status, 200);
    let events: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (done, events) = events.split_last().expect("events");
    assert_eq!(*done, "[DONE]");
    let mut texts = [String::new(), String::new()];
    let events: Vec<Value> =
        events.iter().map(|e| serde_json::from_str(e).expect("JSON")).collect();
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let index = choice["index"].as_u64().expect("an index") as usize;
        texts[index] += choice["text"].as_str().expect("a text");
    }
    assert_eq!(texts[0], answer["choices"][0]["text"].as_str().expect("a text"));
    assert_eq!(texts[1], answer["choices"][1]["text"].as_str().expect("a text"));
    assert_eq!(events.last().expect("usage")["usage"], answer["usage"]);
    // A stop string ends text and tokens.
    let stop = server.complete(json!({
        "prompt": "Effect of", "max_tokens": 30, "temperature": 0, "stop": ["e"], "logprobs": 0,
    }));
    let text = stop["choices"][0]["text"].as_str().expect("a text");
    assert!(!text.contains('e'));
    assert_eq!(stop["choices"][0]["finish_reason"], "stop");
    // An empty prompt begins a document.
    assert_eq!(server.complete(json!({"prompt": ""}))["usage"]["prompt_tokens"], 0);

    // The tokenizer, for clients that have none.
    let (_, tokens) = server.ask("/tokenize", Some("{\"prompt\": \"Effect\"}"));
    let tokens: Value = serde_json::from_str(&tokens).expect("JSON");
    assert_eq!(tokens["tokens"], scored[1]["ids"]);
    let back = server.ask("/detokenize", Some(&json!({"tokens": scored[1]["ids"]}).to_string()));
    assert!(back.1.contains("\"Effect\""), "{}", back.1);
    assert!(server.ask("/tokenizer_info", None).1.contains("<|endoftext|>"));
}

#[test]
fn the_server_refuses_what_it_cannot_do_and_stays() {
    let folder = trained();
    let at = folder.path();
    let mut server = Server::start(at);
    let long = vec![1; 65];
    let complete = "/v1/completions";
    for (path, body, status, says) in [
        (complete, json!("text").to_string(), 400, "the body is not as it should be"),
        (complete, "{\"prompt\": \"x\"".to_string(), 400, "the body is not as it should be"),
        (complete, String::new(), 400, "the body is not as it should be"),
        (complete, json!({"prompt": 3}).to_string(), 400, "`prompt` must be a string"),
        (complete, json!({"prompt": ["a", 3]}).to_string(), 400, "`prompt` must be a string"),
        (complete, json!({"prompt": []}).to_string(), 400, "empty"),
        (complete, json!({"prompt": long}).to_string(), 400, "64 positions"),
        (complete, json!({"prompt": [500]}).to_string(), 400, "500"),
        (complete, json!({"promt": "x"}).to_string(), 400, "promt"),
        (complete, json!({"prompt": "x", "max_tokens": 0}).to_string(), 400, "echo"),
        (complete, json!({"prompt": "x", "max_tokens": -1}).to_string(), 400, "-1"),
        (complete, json!({"prompt": "x", "temperature": -1}).to_string(), 400, "temperature"),
        (complete, json!({"prompt": "x", "top_p": 0}).to_string(), 400, "top_p"),
        (complete, json!({"prompt": "x", "top_k": -2}).to_string(), 400, "top_k"),
        (complete, json!({"prompt": "x", "n": 0}).to_string(), 400, "n is 0"),
        (complete, json!({"prompt": "x", "n": 100_000}).to_string(), 400, "n is 100000"),
        (complete, json!({"prompt": vec!["x"; 600], "n": 2}).to_string(), 400, "600 prompts"),
        (complete, json!({"prompt": "x", "stop": [""]}).to_string(), 400, "stop"),
        (complete, json!({"prompt": "x", "logprobs": 1000}).to_string(), 400, "logprobs"),
        (complete, json!({"prompt": "x", "best_of": 3}).to_string(), 400, "best_of"),
        (complete, json!({"prompt": "x", "logit_bias": {"5": 1}}).to_string(), 400, "logit_bias"),
        (
            complete,
            json!({"prompt": "x", "stream": true, "logprobs": 1}).to_string(),
            400,
            "stream",
        ),
        (complete, " ".repeat((8 << 20) + 1), 413, "longer than"),
        ("/v1/chat/completions", "{}".to_string(), 404, "/v1/completions"),
        ("/v1/models", "{}".to_string(), 405, "GET"),
        ("/detokenize", json!({"tokens": [500]}).to_string(), 400, "500"),
    ] {
        let (found, answer) = server.ask(path, Some(&body));
        let shown = &body[..body.len().min(80)];
        assert_eq!(found, status, "{shown}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(says), "{shown}: {message}");
    }
    assert_eq!(server.ask("/v1/models/other", None).0, 404);
    assert_eq!(server.ask(complete, None).0, 405);

    // Somebody who never finishes a request holds nobody up, and neither does somebody who leaves.
    let address = server.url.strip_prefix("http://").expect("a URL").to_owned();
    let mut idle = TcpStream::connect(&address).expect("it listens");
    let begun = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{";
    idle.write_all(begun.as_bytes()).expect("it reads");
    let mut leaving = TcpStream::connect(&address).expect("it listens");
    let body = json!({"prompt": "x", "max_tokens": 60, "stream": true}).to_string();
    let length = body.len();
    let whole = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    leaving.write_all(whole.as_bytes()).expect("it reads");
    drop(leaving);
    // Many at once all get their answers.
    let alone = server.complete(json!({"prompt": "Effect", "max_tokens": 5, "temperature": 0}));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let body = json!({"prompt": "Effect", "max_tokens": 5, "temperature": 0});
                assert_eq!(server.complete(body)["choices"], alone["choices"]);
            });
        }
    });

    drop(idle);
    let sent = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
    let mut stderr = String::new();
    let told = server.child.stderr.as_mut().expect("it is piped").read_to_string(&mut stderr);
    assert!(told.is_ok() && stderr.contains("Not for clinical use"), "{stderr}");
}
