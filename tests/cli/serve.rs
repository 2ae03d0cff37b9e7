//! The server through HTTP clients: those that behave, and those that do not.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{contents, failure, json, program, run};
use crate::server::Server;
use crate::trained::{call, numbers, trained};
use serde_json::{Value, json};

#[test]
fn the_server_answers_as_score_and_generate_do() {
    let folder = trained();
    let at = folder.path();
    let server = Server::start(program(at), "run", &[]);
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
        server.complete(&json!({
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
    let answer = server.complete(&wanted);
    for (index, expected) in expected["generations"].as_array().expect("a list").iter().enumerate()
    {
        assert_eq!(answer["choices"][index]["text"], expected["text"]);
    }
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    // A batch gives what each prompt gives alone.
    let batch = server.complete(&json!({
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
    let mut greedy =
        json!({"prompt": "Effect of", "max_tokens": 30, "temperature": 0, "logprobs": 0});
    let whole =
        server.complete(&greedy)["choices"][0]["text"].as_str().expect("a text").to_string();
    let last = whole.chars().rfind(char::is_ascii_alphabetic).expect("a letter");
    greedy["stop"] = json!([last.to_string()]);
    let stop = server.complete(&greedy);
    let text = stop["choices"][0]["text"].as_str().expect("a text");
    assert_eq!(Some(text), whole.split(last).next());
    assert_eq!(stop["choices"][0]["finish_reason"], "stop");
    // The chat protocol's way to ask for the log-likelihoods of the tokens taken.
    let asked = |logprobs: Value| {
        server.complete(
            &json!({"prompt": "Effect", "max_tokens": 3, "seed": 1, "logprobs": logprobs}),
        )["choices"][0]["logprobs"]
            .clone()
    };
    assert_eq!(asked(json!(true)), asked(json!(0)));
    assert_eq!(asked(json!(false)), Value::Null);
    // An empty prompt begins a document.
    assert_eq!(server.complete(&json!({"prompt": ""}))["usage"]["prompt_tokens"], 0);

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
    let server = Server::start(program(at), "run", &[]);
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
        (complete, json!({"prompt": "x".repeat(100_000)}).to_string(), 400, "64 positions"),
        (complete, json!({"prompt": "aspirin ".repeat(70)}).to_string(), 400, "64 positions"),
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
        (complete, json!([null, "x"]).to_string(), 400, "expected a JSON object"),
        ("/tokenize", json!(["Aspirin"]).to_string(), 400, "expected a JSON object"),
        ("/detokenize", json!([[5]]).to_string(), 400, "expected a JSON object"),
        (
            complete,
            json!({"prompt": "x", "stream": true, "stream_options": [true]}).to_string(),
            400,
            "expected a JSON object",
        ),
        (complete, json!({"prompt": "x", "logprobs": "1"}).to_string(), 400, "`logprobs` must be"),
        (complete, json!({"prompt": "x", "logprobs": -1}).to_string(), 400, "`logprobs` must be"),
        (complete, json!({"prompt": "x", "stop": 3}).to_string(), 400, "`stop` must be"),
        (complete, json!({"prompt": "x", "stop": vec!["x"; 65]}).to_string(), 400, "more than 64"),
        (complete, json!({"prompt": [-1]}).to_string(), 400, "`prompt` must be"),
        (complete, json!({"prompt": [1_u64 << 32]}).to_string(), 400, "32 bits"),
        (complete, json!({"prompt": [[1], ["a"]]}).to_string(), 400, "`prompt` must be"),
        (complete, json!({"prompt": vec!["x"; 1025]}).to_string(), 400, "more than 1024"),
        (complete, format!("{{\"prompt\": {}", "[".repeat(100_000)), 400, "as it should be"),
        (complete, "{\"prompt\": \"x\", \"prompt\": \"y\"}".to_string(), 400, "duplicate"),
        // What would take all memory, or the model for hours.
        (
            complete,
            json!({"prompt": vec![vec![1; 60]; 1000], "echo": true, "logprobs": 100,
                   "max_tokens": 0})
            .to_string(),
            400,
            "log-likelihoods",
        ),
        (
            complete,
            json!({"prompt": "x", "n": 1024, "logprobs": 100, "max_tokens": 60}).to_string(),
            400,
            "log-likelihoods",
        ),
        (
            complete,
            json!({"prompt": "x", "past_context": true, "max_tokens": 1_u64 << 40}).to_string(),
            400,
            "at once",
        ),
        (
            complete,
            json!({"prompt": vec![vec![1; 64]; 1024], "n": 1, "max_tokens": usize::MAX,
                   "past_context": true})
            .to_string(),
            400,
            "at once",
        ),
        (complete, " ".repeat((8 << 20) + 1), 413, "longer than"),
        ("/tokenize", json!({"prompt": "x".repeat(1 << 20)}).to_string(), 413, "longer than"),
        ("/detokenize", json!({"tokens": vec![1; 300_000]}).to_string(), 400, "more than 262144"),
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
}

/// A connection that sends `bytes` and waits for whatever comes back.
fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    // Whoever is refused early cannot send all.
    let _ = stream.write_all(bytes);
    stream
}

/// All that the server answers; nothing if it only closes the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of what the server answers to `bytes`; 0 if it only closes the connection.
fn status(server: &Server, bytes: &[u8]) -> u16 {
    let answer = rest(send(server, bytes));
    answer.strip_prefix("HTTP/1.1 ").map_or(0, |rest| rest[..3].parse().expect("a status"))
}

/// A request as it should be: a line, headers, and a body behind its length.
fn request(headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /v1/completions HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into()
}

const HEADERS: &str = "Host: localhost\r\nContent-Type: application/json\r\n";

/// A request that would keep the model for minutes: greedy text goes in circles, without an end.
fn endless(stream: bool) -> Vec<u8> {
    let body = json!({
        "prompt": "x", "max_tokens": 250_000, "past_context": true, "stream": stream, "temperature": 0,
    });
    request(HEADERS, &body.to_string())
}

#[test]
fn requests_that_mean_two_things_or_another_server_are_refused() {
    let folder = trained();
    let server = Server::start(program(folder.path()), "run", &["--allow-host", "models.example"]);
    let body = json!({"prompt": "x", "max_tokens": 1}).to_string();
    let with = |headers: &str| status(&server, &request(headers, &body));
    let json = "Content-Type: application/json\r\n";
    let host = "Host: localhost\r\n";
    assert_eq!(with(HEADERS), 200);
    for (headers, expected) in [
        // Other names than the server's, and pages of other names.
        (format!("{json}Host: {}\r\n", server.address), 200),
        (format!("{json}Host: models.example:443\r\n"), 200),
        (format!("{json}Host: evil.example\r\n"), 403),
        (format!("{json}Host: 192.0.2.1\r\n"), 403),
        (format!("{json}{host}Origin: http://localhost:3000\r\n"), 200),
        (format!("{json}{host}Origin: https://evil.example\r\n"), 403),
        (format!("{json}{host}Origin: null\r\n"), 403),
        (json.to_string(), 400),
        (format!("{json}{host}Host: evil.example\r\n"), 400),
        // What any page may send.
        (host.to_string(), 415),
        (format!("{host}Content-Type: text/plain\r\n"), 415),
        (format!("{host}Content-Type: application/x-www-form-urlencoded\r\n"), 415),
        (format!("{host}Content-Type: application/json; charset=utf-8\r\n"), 200),
        (format!("{HEADERS}Content-Encoding: gzip\r\n"), 415),
        // Two lengths.
        (format!("{HEADERS}Content-Length: {}\r\n", body.len()), 400),
        (format!("{HEADERS}Content-Length: 1\r\n"), 400),
        (format!("{HEADERS}Content-Length: 5, 5\r\n"), 400),
        (format!("{HEADERS}Transfer-Encoding: chunked\r\n"), 400),
        (format!("{HEADERS}Transfer-Encoding: identity\r\n"), 400),
        // Heads that never end or never were one.
        (format!("{HEADERS}X: {}\r\n", "x".repeat(20_000)), 200),
        (format!("{HEADERS}X: {}\r\n", "x".repeat(40_000)), 431),
        (format!("{HEADERS}{}", "X: x\r\n".repeat(90)), 200),
        (format!("{HEADERS}{}", "X: x\r\n".repeat(120)), 431),
        (format!("{HEADERS}no header\r\n"), 400),
        (format!("{HEADERS}a b: c\r\n"), 400),
    ] {
        assert_eq!(with(&headers), expected, "{}", &headers[..headers.len().min(200)]);
    }
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let line = "POST /v1/completions HTTP/1.1\r\n";
    for (headers, expected) in [
        ("Transfer-Encoding: chunked\r\n".to_string(), 200),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", chunked.len()), 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_string(), 400),
    ] {
        let bytes = format!("{line}{HEADERS}{headers}\r\n{chunked}");
        assert_eq!(status(&server, bytes.as_bytes()), expected, "{headers}");
    }
    for line in
        ["GET http://evil.example/health HTTP/1.1", "PRI * HTTP/2.0", "\0\0", "GET", "GET  / /"]
    {
        let bytes = format!("{line}\r\n{host}\r\n");
        let status = status(&server, bytes.as_bytes());
        assert!(matches!(status, 0 | 400..=499), "{line}: {status}");
    }
    // One connection, one request: a second one in the same bytes is nobody's.
    let health = format!("GET /health HTTP/1.1\r\n{host}\r\n");
    let answer = rest(send(&server, health.repeat(2).as_bytes()));
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    // HTTP/1.0 has no chunks: there the end of the connection ends a stream.
    let stream = json!({"prompt": "x", "max_tokens": 3, "stream": true}).to_string();
    let old =
        String::from_utf8(request(HEADERS, &stream)).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let answer = rest(send(&server, old.as_bytes()));
    assert!(answer.ends_with("data: [DONE]\n\n") && !answer.contains("chunked"), "{answer}");
}

#[test]
fn a_key_is_wanted_where_one_is_set() {
    let folder = trained();
    let at = folder.path();
    for (content, says) in
        [("", "holds no API key"), ("a b", "holds no API key"), ("é", "no API key")]
    {
        fs::write(at.join("key"), content).expect("write");
        let message = failure(&run(at, "serve run --port 0 --api-key-file key"), 1);
        assert!(message.contains("key: ") && message.contains(says), "{message}");
    }
    let message = failure(&run(at, "serve run --port 0 --api-key-file run"), 1);
    assert!(message.contains("not a regular file"), "{message}");
    fs::write(at.join("key"), "from-a-file\n").expect("write");
    let mut command = program(at);
    command.env("MEDISWIFT_API_KEY", "from-the-environment");
    let body = json!({"prompt": "x", "max_tokens": 1}).to_string();
    for (options, key) in
        [(&["--api-key-file", "key"][..], "from-a-file"), (&[], "from-the-environment")]
    {
        let mut command = program(at);
        command.env("MEDISWIFT_API_KEY", "from-the-environment");
        let server = Server::start(command, "run", options);
        let with = |line: String| status(&server, &request(&format!("{HEADERS}{line}"), &body));
        assert_eq!(with(format!("Authorization: Bearer {key}\r\n")), 200);
        for wrong in [
            String::new(),
            "Authorization: Bearer x\r\n".into(),
            format!("Authorization: {key}\r\n"),
        ] {
            assert_eq!(with(wrong), 401);
        }
        assert_eq!(server.ask("/v1/models", None).0, 401);
        assert_eq!(server.ask("/health", None).0, 200);
    }
}

/// Largest resident memory of a process so far, in bytes, where the system tells.
fn peak_memory(server: &Server) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

/// What a server may take besides its model, whatever clients do: half a gibibyte, as
/// docs/using-a-model.md says.
const MOST_MEMORY: u64 = 512 << 20;

/// A well-behaved client is answered, soon.
#[track_caller]
fn is_answered(server: &Server) {
    let begun = Instant::now();
    assert_eq!(server.ask("/health", None).0, 200);
    let answer = server.complete(&json!({"prompt": "Effect", "max_tokens": 5, "temperature": 0}));
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn nobody_stops_the_server() {
    let folder = trained();
    let at = folder.path();
    let server = Server::start(program(at), "run", &[]);
    is_answered(&server);
    let idle = peak_memory(&server);

    // Two hundred that are slow, silent, or do not read.
    let mut rude = Vec::new();
    let half = request(HEADERS, &" ".repeat(5000));
    let large = request(HEADERS, &json!({"prompt": vec![5; 1 << 21]}).to_string());
    for number in 0..200 {
        let bytes: &[u8] = match number % 5 {
            0 => b"",
            1 => b"POST /v1/completions HTTP/1.1\r\nHost: loc",
            2 => &half[..half.len() - 4990],
            3 => &endless(true),
            // Megabytes of a body that lacks its end.
            _ if number < 100 => &large[..large.len() - 1],
            _ => &half[..half.len() - 1],
        };
        rude.push(send(&server, bytes));
    }
    // The streams take the model one after the other; each ends when its client goes.
    let streams = rude.drain(..).enumerate();
    let (streams, rude): (Vec<_>, Vec<_>) = streams.partition(|(number, _)| number % 5 == 3);
    assert_eq!(server.ask("/health", None).0, 200, "while the model is taken and a crowd waits");
    drop(streams);
    is_answered(&server);

    // Fifty at once all get their answers.
    let alone = server.complete(&json!({"prompt": "Effect", "max_tokens": 5, "temperature": 0}));
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let body = json!({"prompt": "Effect", "max_tokens": 5, "temperature": 0});
                assert_eq!(server.complete(&body)["choices"], alone["choices"]);
            });
        }
    });
    drop(rude);

    // More than may wait are told to come back; those who leave the queue leave their places.
    let crowd: Vec<TcpStream> = (0..80).map(|_| send(&server, &endless(false))).collect();
    let mut refused = crowd;
    let answer = loop {
        // Some answer comes at once: that of one who found no place.
        let found = refused.iter_mut().position(|stream| {
            stream.set_nonblocking(true).expect("a socket");
            let there = stream.peek(&mut [0]).is_ok();
            stream.set_nonblocking(false).expect("a socket");
            there
        });
        if let Some(found) = found {
            break rest(refused.swap_remove(found));
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(server.ask("/health", None).0, 200);
    drop(refused);
    // As soon as the server has heard of it.
    let (begun, body) = (Instant::now(), json!({"prompt": "Effect", "max_tokens": 1}).to_string());
    while server.ask("/v1/completions", Some(&body)).0 == 503 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the queue is still full");
        thread::sleep(Duration::from_millis(20));
    }
    is_answered(&server);

    // Everything as large as it may be, or larger, several at once, and nobody reads the answers.
    let listed = json!({
        "prompt": vec![vec![5; 60]; 43], "echo": true, "logprobs": 100, "max_tokens": 0,
    });
    let nested = format!("{{\"logit_bias\": {{\"a\": {}", "[0,".repeat(1 << 20));
    let many = (0..400_000).map(|key| format!("\"{key}\":0")).collect::<Vec<_>>().join(",");
    let bodies = [
        listed.to_string(),
        json!({"prompt": vec![5; 1 << 21]}).to_string(),
        json!({"prompt": vec![vec![5]; 1 << 20]}).to_string(),
        json!({"prompt": "'".repeat(7 << 20)}).to_string(),
        json!({"prompt": vec!["'".repeat(4000); 1000]}).to_string(),
        json!({"prompt": vec!["x y ".repeat(2000); 1000]}).to_string(),
        json!({"prompt": "x", "stop": vec!["x"; 1 << 20]}).to_string(),
        nested,
        format!("{{\"logit_bias\": {{{many}}}}}"),
    ];
    let mut unread = Vec::new();
    for body in bodies.iter().cycle().take(32) {
        unread.push(send(&server, &request(HEADERS, body)));
    }
    let tokens = json!({"prompt": "a b c ".repeat(170_000)}).to_string();
    for _ in 0..4 {
        let (status, answer) = server.ask("/tokenize", Some(&tokens));
        assert_eq!(status, 200, "{answer}");
    }
    is_answered(&server);
    let line = [b"GET /".as_slice(), &vec![b'a'; 4 << 20]].concat();
    assert!(matches!(status(&server, &line), 0 | 414 | 431));
    is_answered(&server);
    drop(unread);
    match (idle, peak_memory(&server)) {
        (Some(idle), Some(peak)) => {
            println!("{idle} bytes idle, {peak} at most");
            assert!(peak < idle + MOST_MEMORY);
        }
        _ => println!("skipped: the system does not tell how much memory a process takes"),
    }
}

#[test]
fn few_open_files_are_enough() {
    let folder = trained();
    let limited = |files: u32| {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_mediswift");
        let script = format!("ulimit -n {files}; exec \"{program}\" \"$@\"");
        command.args(["-c", &script, "sh"]).current_dir(folder.path());
        command
    };
    let server = Server::start(limited(60), "run", &[]);
    // Twice as many as fit: silent ones give way to those who say something.
    let silent: Vec<TcpStream> = (0..60).map(|_| send(&server, b"GET")).collect();
    is_answered(&server);
    let more: Vec<TcpStream> = (0..60).map(|_| send(&server, &endless(true)[..50])).collect();
    is_answered(&server);
    drop((silent, more));
    let none = limited(35).args(["serve", "run", "--port", "0"]).output().expect("it starts");
    assert!(failure(&none, 1).contains("ulimit -n"));
}

#[test]
fn a_server_stops_soon_whatever_it_is_at() {
    let folder = trained();
    let mut server = Server::start(program(folder.path()), "run", &[]);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| send(&server, &endless(true))).collect();
    let mut waiting = vec![send(&server, &endless(false))];
    let silent = [send(&server, b""), send(&server, &request(HEADERS, "{}")[..60])];
    // The first stream has begun.
    let mut byte = [0];
    streams[0].read_exact(&mut byte).expect("an answer begins");
    let begun = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    assert_eq!(server.child.wait().expect("it ends").code(), Some(0));
    // It takes two seconds at most; more where the machine has other work.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let answer = rest(waiting.remove(0));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{answer}");
    drop((streams, silent));
    let mut stderr = String::new();
    let told = server.child.stderr.as_mut().expect("it is piped").read_to_string(&mut stderr);
    assert!(told.is_ok() && stderr.contains("Not for clinical use"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Makes the weights of a run so large that sums of them overflow: `broken/`.
fn overflow(at: &Path) {
    json(&run(at, "--json export hf run --out hf"));
    let file = at.join("hf/model.safetensors");
    let mut bytes = fs::read(&file).expect("read");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let tensors = header.as_object().expect("an object");
    let (_, last) = tensors.iter().find(|(name, _)| name.ends_with("ln_f.weight")).expect("it is");
    let place =
        |at: usize| 8 + length + last["data_offsets"][at].as_u64().expect("a place") as usize;
    let values = &mut bytes[place(0)..place(1)];
    values.chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&3e38f32.to_le_bytes()));
    fs::write(&file, bytes).expect("write");
    json(&run(at, "--json import hf hf --out broken"));
}

#[test]
fn no_text_is_made_of_what_is_no_number() {
    let folder = trained();
    let at = folder.path();
    overflow(at);
    for command_line in [
        "generate broken --prompt Effect --greedy",
        "generate broken --prompt Effect --samples 3",
        "score broken --text Effect",
        "score broken --file corpus.jsonl --context x --out scores.jsonl",
        "eval broken --data corpus.jsonl",
    ] {
        let message = failure(&run(at, command_line), 1);
        assert!(message.contains("weights have grown too large"), "{command_line}: {message}");
    }
    assert!(!at.join("scores.jsonl").exists());
    let server = Server::start(program(at), "broken", &[]);
    for body in [
        json!({"prompt": "x"}),
        json!({"prompt": "x", "temperature": 0, "n": 2}),
        json!({"prompt": "x y z", "echo": true, "logprobs": 1, "max_tokens": 0}),
        json!({"prompt": "x y z", "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0}),
    ] {
        let (status, answer) = server.ask("/v1/completions", Some(&body.to_string()));
        assert!(status == 500 && answer.contains("weights have grown"), "{body}: {answer}");
    }
    let body = json!({"prompt": "x", "stream": true}).to_string();
    let (_, events) = server.ask("/v1/completions", Some(&body));
    assert!(events.contains("weights have grown") && events.ends_with("[DONE]\n\n"), "{events}");
    assert!(!events.contains("\"text\""), "{events}");
}

#[test]
fn texts_end_with_the_positions_or_go_on_past_them() {
    let folder = trained();
    let at = folder.path();
    let generate =
        ["generate", "run", "--prompt", "Effect of", "--max-tokens", "100", "--seed", "1"];
    let output = program(at).args(["--json"]).args(generate).output().expect("it starts");
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    let short = json(&output);
    let past = call(at, &[&generate[..], &["--past-context"]].concat());
    let taken = |made: &Value| made["ids"].as_array().expect("a list").len();
    // Both could end with a document as well.
    if short["finish"] == "context_full" {
        let says =
            format!("a text ends after {} of 100 tokens; --past-context goes on", taken(&short));
        assert!(note.contains(&says), "{note}");
        assert!(taken(&past) > taken(&short), "{past}");
    }
    let (short, past) =
        (short["text"].as_str().expect("text"), past["text"].as_str().expect("text"));
    assert!(past.starts_with(short), "{past}");

    let server = Server::start(program(at), "run", &[]);
    let body = json!({
        "prompt": "Effect of", "max_tokens": 100, "seed": 1, "temperature": 0.8, "past_context": true,
    });
    assert_eq!(server.complete(&body)["choices"][0]["text"], past);
}

#[test]
fn what_cannot_be_served_is_named() {
    let folder = trained();
    let at = folder.path();
    let before = contents(at);
    for (command_line, code, says) in [
        ("serve absent", 1, "absent: holds no run"),
        ("serve run --port 70000", 2, "--port"),
        ("serve run --host localhost:8", 2, "--host"),
        ("serve run --host 192.0.2.1 --port 0", 1, "cannot listen on 192.0.2.1, port 0"),
        ("serve run --time-limit 0", 2, "--time-limit"),
        ("serve run --soft-prompt", 2, "no soft prompt"),
        ("serve run --api-key-file absent", 1, "absent"),
    ] {
        let message = failure(&run(at, command_line), code);
        assert!(message.contains(says), "{command_line}: {message}");
    }
    assert_eq!(contents(at), before);
}
