//! What is wrong with a request, or with the server.

use serde_json::{Value, json};

/// An answer that says what is wrong.
pub struct Problem {
    pub status: u16,
    kind: &'static str,
    message: String,
    /// The parameter at fault.
    parameter: Option<&'static str>,
}

impl Problem {
    /// A request that cannot be met as it is.
    pub fn bad(parameter: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        let (parameter, message) = (parameter.into(), message.into());
        Self { status: 400, kind: "invalid_request_error", message, parameter }
    }

    pub fn with_status(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), parameter: None }
    }

    pub fn json(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.parameter, "code": null,
        } })
    }
}

impl From<mediswift_model::Error> for Problem {
    /// Whatever the model refuses came with the request.
    fn from(error: mediswift_model::Error) -> Self {
        Self::bad(None, error.to_string())
    }
}
