//! What is wrong with a request, or with the server.

use mediswift_model::error::ErrorKind;
use serde_json::{Value, json};

/// An answer that says what is wrong.
#[derive(Debug)]
pub struct Problem {
    pub status: u16,
    kind: &'static str,
    message: String,
    /// The parameter at fault.
    parameter: Option<&'static str>,
    /// A header that clients need to know what to do.
    pub header: Option<(&'static str, &'static str)>,
}

impl Problem {
    /// A request that cannot be met as it is.
    pub fn bad(parameter: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), ..Self::with_status(400, message) }
    }

    pub fn with_status(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        let header = match status {
            401 => Some(("WWW-Authenticate", "Bearer")),
            503 => Some(("Retry-After", "1")),
            _ => None,
        };
        Self { status, kind, message: message.into(), parameter: None, header }
    }

    pub fn json(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.parameter, "code": null,
        } })
    }
}

impl From<mediswift_model::Error> for Problem {
    /// Whatever the model refuses came with the request, unless the model itself is at fault.
    fn from(error: mediswift_model::Error) -> Self {
        match error.kind() {
            ErrorKind::NonFinite => Self::with_status(500, error.to_string()),
            _ => Self::bad(None, error.to_string()),
        }
    }
}
