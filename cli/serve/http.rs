//! HTTP: which request goes where, and how answers look on the wire.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tiny_http::{HTTPVersion, Header, Method, Request, Response, StatusCode};

use super::problem::Problem;
use super::service::{NOTICE, Service};
use super::{completions, tokens};

/// Longest accepted body, in bytes.
const MOST_BYTES: usize = 8 << 20;

/// Answers one request.
pub fn answer(service: &Service, mut request: Request, crowded: bool) {
    let answer = if crowded {
        let message = "too many requests are waiting; try again later";
        Err(Problem::with_status(503, "server_error", message))
    } else {
        route(service, &mut request)
    };
    // A client that has gone away wants no answer.
    let _ = match answer {
        Ok(Answer::Json(json)) => respond(request, 200, &json),
        Ok(Answer::Stream(completion)) => stream(request, |send| completion.stream(service, send)),
        Err(problem) => respond(request, problem.status, &problem.json()),
    };
}

/// What to send.
enum Answer {
    Json(Value),
    Stream(completions::Completion),
}

fn route(service: &Service, request: &mut Request) -> Result<Answer, Problem> {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let path = path.trim_end_matches('/');
    let model = path.strip_prefix("/v1/models/");
    let wanted = match path {
        "/health" | "/v1/models" | "/tokenizer_info" => Method::Get,
        _ if model.is_some() => Method::Get,
        "/v1/completions" | "/tokenize" | "/detokenize" => Method::Post,
        _ => {
            let message = format!("there is nothing at {path}; POST to /v1/completions");
            return Err(Problem::with_status(404, "not_found_error", message));
        }
    };
    let head = wanted == Method::Get && *request.method() == Method::Head;
    if *request.method() != wanted && !head {
        let message = format!("{path} takes {wanted} requests");
        return Err(Problem::with_status(405, "invalid_request_error", message));
    }
    Ok(Answer::Json(match path {
        "/health" => json!({ "status": "ok" }),
        "/v1/models" => json!({ "object": "list", "data": [service.model()] }),
        "/tokenizer_info" => tokens::describe(service)?,
        "/tokenize" => tokens::tokenize(service, body(request)?)?,
        "/detokenize" => tokens::detokenize(service, body(request)?)?,
        "/v1/completions" => {
            let completion = completions::Completion::new(service, body(request)?)?;
            if completion.is_streamed() {
                return Ok(Answer::Stream(completion));
            }
            completion.answer(service)?
        }
        _ if model == Some(service.name.as_str()) => service.model(),
        _ => {
            let message = format!("the only model here is {}", service.name);
            return Err(Problem::with_status(404, "not_found_error", message));
        }
    }))
}

/// The JSON object that a request carries.
fn body<T: DeserializeOwned>(request: &mut Request) -> Result<T, Problem> {
    let too_long = || {
        let message = format!("the body is longer than {MOST_BYTES} bytes; send fewer prompts");
        Problem::with_status(413, "invalid_request_error", message)
    };
    if request.body_length().is_some_and(|length| length > MOST_BYTES) {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    let mut limited = request.as_reader().take(MOST_BYTES as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(|e| Problem::bad(None, format!("broken body: {e}")))?;
    if bytes.len() > MOST_BYTES {
        return Err(too_long());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::bad(None, format!("the body is not as it should be: {error}")))
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("plain ASCII")
}

fn respond(request: Request, status: u16, json: &Value) -> io::Result<()> {
    let response = Response::from_string(json.to_string())
        .with_status_code(StatusCode(status))
        .with_header(header("Content-Type", "application/json"))
        .with_header(header("X-Notice", NOTICE));
    request.respond(response)
}

/// Sends server-sent events as they come; `tell` gets a function that sends one.
fn stream(
    request: Request,
    tell: impl FnOnce(&mut dyn FnMut(&Value) -> io::Result<()>) -> Result<(), Problem>,
) -> io::Result<()> {
    // HTTP/1.0 knows no chunks: there the end of the connection ends the answer.
    let chunked = *request.http_version() >= HTTPVersion(1, 1);
    let mut to = request.into_writer();
    write!(
        to,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    )?;
    write!(to, "X-Notice: {NOTICE}\r\n")?;
    write!(to, "{}\r\n", if chunked { "Transfer-Encoding: chunked\r\n" } else { "" })?;
    to.flush()?;
    let mut send = |event: &str| {
        let event = format!("data: {event}\n\n");
        if chunked {
            write!(to, "{:x}\r\n{event}\r\n", event.len())?;
        } else {
            write!(to, "{event}")?;
        }
        to.flush()
    };
    if let Err(problem) = tell(&mut |event| send(&event.to_string())) {
        send(&problem.json().to_string())?;
    }
    send("[DONE]")?;
    if chunked {
        write!(to, "0\r\n\r\n")?;
    }
    to.flush()
}
