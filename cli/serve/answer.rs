//! How answers look on the wire.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{Either, Full};
use hyper::Response;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::sync::mpsc::Receiver;

use super::problem::Problem;
use super::service::NOTICE;

/// An answer: JSON, or events.
pub type Answer = Response<Either<Full<Bytes>, Events>>;

/// Server-sent events as they come.
pub struct Events(pub Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

/// An answer that is JSON.
pub fn json(json: impl Into<Bytes>) -> Answer {
    whole(Response::builder(), json.into())
}

/// An answer that says what is wrong.
pub fn problem(problem: &Problem) -> Answer {
    let mut response = Response::builder().status(problem.status);
    if let Some((name, value)) = problem.header {
        response = response.header(name, value);
    }
    whole(response, problem.json().to_string().into())
}

fn whole(response: hyper::http::response::Builder, json: Bytes) -> Answer {
    let response = response.header(CONTENT_TYPE, "application/json").header("X-Notice", NOTICE);
    response.body(Either::Left(Full::new(json))).expect("every part is valid")
}

/// An answer that comes piece by piece.
pub fn events(events: Receiver<Bytes>) -> Answer {
    let response = Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CACHE_CONTROL, "no-cache")
        .header("X-Notice", NOTICE);
    response.body(Either::Right(Events(events))).expect("every part is valid")
}

/// An event on the wire.
pub fn event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}
