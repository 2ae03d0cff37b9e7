//! Which request goes where.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::json;
use tokio::sync::mpsc;

use super::answer::{self, Answer};
use super::completions::Completion;
use super::connections::Seat;
use super::object;
use super::problem::Problem;
use super::queue::stopping;
use super::service::Service;
use super::stream::{MOST_BEHIND, Stream};
use super::{body, tokens};

/// Longest body of a completion request, in bytes.
const MOST_BYTES: usize = 8 << 20;

/// Longest body with a text to tokenize or tokens to make a text of: each byte may become a token.
const MOST_BYTES_OF_TOKENS: usize = 1 << 20;

/// Bytes that an event takes, roughly.
const EVENT: usize = 300;

/// One client and its request.
pub struct Visit {
    pub service: Arc<Service>,
    pub seat: Arc<Seat>,
    /// The address at which the client reached the server.
    pub local: IpAddr,
    /// Whether the request says twice how long its body is.
    pub is_ambiguous: bool,
}

impl Visit {
    /// The answer to a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.service.requests.fetch_add(1, Ordering::Relaxed);
        self.route(request).await.unwrap_or_else(|problem| answer::problem(&problem))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        if self.is_ambiguous {
            let message = "Content-Length comes twice, or with Transfer-Encoding";
            return Err(Problem::bad(None, message));
        }
        let service = &self.service;
        let (head, body) = request.into_parts();
        service.guard.check_hosts(&head, self.local)?;
        let path = head.uri.path().trim_end_matches('/');
        if path != "/health" {
            service.guard.check_key(&head.headers)?;
        }
        let model = path.strip_prefix("/v1/models/");
        let wanted = match path {
            "/health" | "/v1/models" | "/tokenizer_info" => Method::GET,
            _ if model.is_some() => Method::GET,
            "/v1/completions" | "/tokenize" | "/detokenize" => Method::POST,
            _ => {
                let message = format!("there is nothing at {path}; POST to /v1/completions");
                return Err(Problem::with_status(404, message));
            }
        };
        let is_head = wanted == Method::GET && head.method == Method::HEAD;
        if head.method != wanted && !is_head {
            let mut problem = Problem::with_status(405, format!("{path} takes {wanted} requests"));
            let methods = if wanted == Method::GET { "GET, HEAD" } else { "POST" };
            problem.header = Some(("Allow", methods));
            return Err(problem);
        }
        let read = async |most| body::read(&head.headers, body, most, &self.seat).await;
        let json = match path {
            "/health" => json!({ "status": "ok" }).to_string(),
            "/v1/models" => json!({ "object": "list", "data": [service.model()] }).to_string(),
            "/tokenizer_info" => tokens::describe(service)?.to_string(),
            "/tokenize" => {
                let answer =
                    |service: &_, body: &[u8]| tokens::tokenize(service, object::read(body)?);
                self.read(read(MOST_BYTES_OF_TOKENS).await?, answer).await?
            }
            "/detokenize" => {
                let answer =
                    |service: &_, body: &[u8]| tokens::detokenize(service, object::read(body)?);
                self.read(read(MOST_BYTES_OF_TOKENS).await?, answer).await?.to_string()
            }
            "/v1/completions" => {
                let make = |service: &_, body: &[u8]| Completion::new(service, object::read(body)?);
                let completion = self.read(read(MOST_BYTES).await?, make).await?;
                return self.complete(completion).await;
            }
            _ if model == Some(service.name.as_str()) => service.model().to_string(),
            _ => {
                let message = format!("the only model here is {}", service.name);
                return Err(Problem::with_status(404, message));
            }
        };
        Ok(answer::json(json))
    }

    /// What `make` makes of a body, when it is its turn.
    async fn read<T: Send + 'static>(
        &self,
        body: Vec<u8>,
        make: impl FnOnce(&Service, &[u8]) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        // While it waits here, a client with much may still have to go.
        let turn = self.service.reading.turn().await?;
        let client = self.seat.computed();
        let service = Arc::clone(&self.service);
        let made = turn.answer(client, move |_| make(&service, &body)).await;
        self.seat.holds(0);
        made
    }

    /// Computes a completion when it is its turn.
    async fn complete(&self, completion: Completion) -> Result<Answer, Problem> {
        let client = self.seat.computed();
        let turn = self.service.computing.turn().await?;
        if self.service.stops.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        let service = Arc::clone(&self.service);
        if !completion.is_streamed() {
            let json = turn
                .answer(client, move |leash| Ok(completion.answer(&service, leash)?.to_string()));
            let json = json.await?;
            self.seat.holds(json.len());
            return Ok(answer::json(json));
        }
        let (events, reader) = mpsc::channel(MOST_BEHIND);
        self.seat.holds(MOST_BEHIND * EVENT);
        let gone = events.clone();
        turn.run(
            client,
            move || gone.is_closed(),
            move |leash| {
                let mut stream = Stream::new(events);
                if let Err(problem) = completion.stream(&service, &mut stream, leash) {
                    stream.send(&problem.json().to_string());
                }
                stream.send("[DONE]");
            },
        );
        Ok(answer::events(reader))
    }
}
