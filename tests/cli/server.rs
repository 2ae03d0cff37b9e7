//! A server of a model, and a client that behaves well.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

/// A server on a free port, ended with the test.
pub struct Server {
    pub child: Child,
    /// Its address and port.
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Serves the run `name`. `command` is the program.
    pub fn start(mut command: Command, name: &str, options: &[&str]) -> Self {
        let mut child = command
            .args(["--json", "serve", name, "--port", "0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            told["model"],
            Path::new(name).file_name().and_then(|n| n.to_str()).unwrap_or("")
        );
        let url = told["url"].as_str().expect("a URL");
        let address = url.strip_prefix("http://").expect("a URL of HTTP").to_owned();
        Self { child, address }
    }

    /// Status and body of an answer.
    #[track_caller]
    pub fn ask(&self, path: &str, body: Option<&str>) -> (u16, String) {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .build()
            .into();
        let url = format!("http://{}{path}", self.address);
        let answer = match body {
            Some(body) => agent.post(&url).content_type("application/json").send(body),
            None => agent.get(&url).call(),
        };
        let mut answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_to_string().expect("a body"))
    }

    #[track_caller]
    pub fn complete(&self, body: &Value) -> Value {
        let (status, answer) = self.ask("/v1/completions", Some(&body.to_string()));
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).expect("JSON")
    }
}
