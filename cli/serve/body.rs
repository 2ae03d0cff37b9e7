//! The bytes of a request's body.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::time::timeout;

use super::connections::Seat;
use super::problem::Problem;

/// How long a body may take.
const TIME: Duration = Duration::from_secs(20);

/// Reads a JSON body of at most `most` bytes.
pub async fn read(
    headers: &HeaderMap,
    body: Incoming,
    most: usize,
    seat: &Seat,
) -> Result<Vec<u8>, Problem> {
    check_type(headers)?;
    if body.size_hint().lower() > most as u64 {
        return Err(too_long(most));
    }
    match timeout(TIME, collect(body, most, seat)).await {
        Ok(bytes) => bytes,
        Err(_) => {
            let message = format!("the body took more than {} seconds", TIME.as_secs());
            Err(Problem::with_status(408, message))
        }
    }
}

/// A form or a plain text may be sent by any web page, JSON may not.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let name = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !name.eq_ignore_ascii_case("application/json") {
        let found = kind.map_or("none".into(), |kind| format!("'{kind}'"));
        let message = format!("Content-Type must be application/json, but is {found}");
        return Err(Problem::with_status(415, message));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Problem::with_status(
            415,
            "Content-Encoding is not supported: send plain JSON",
        ));
    }
    Ok(())
}

async fn collect(mut body: Incoming, most: usize, seat: &Seat) -> Result<Vec<u8>, Problem> {
    // What is not sent takes an address, but no memory.
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(most);
    let mut bytes = Vec::with_capacity(expected.min(most));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::bad(None, format!("broken body: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_long(most));
        }
        bytes.extend_from_slice(data);
        seat.holds(bytes.len());
    }
    Ok(bytes)
}

fn too_long(most: usize) -> Problem {
    let message = format!("the body is longer than {most} bytes; send less at once");
    Problem::with_status(413, message)
}
