//! `mediswift serve`.

mod answer;
mod body;
mod completions;
mod connections;
mod guard;
mod head;
mod key;
mod listen;
mod object;
mod problem;
mod prompt;
mod queue;
mod request;
mod routes;
mod service;
mod stream;
mod tokens;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mediswift_model::run::LoadedModel;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use self::guard::Guard;
use self::listen::Listener;
use self::queue::Queue;
use self::service::{NOTICE, Service, longest_token, now};
use crate::output;
use crate::signals::StopSignal;
use crate::trained::{self, Which};
use crate::verb::{Context, Exit, Outcome, Verb};

/// Requests that may wait or be computed at once.
const MOST_REQUESTS: usize = 64;

/// Connections that may be open at once.
const MOST_CONNECTIONS: usize = 512;

/// Files that the program may need besides connections.
const OTHER_FILES: usize = 32;

/// Serve a trained model to clients of the OpenAI completions API
///
/// For research only, not for clinical use. Answers POST /v1/completions (with `echo` and
/// `logprobs`, as evaluation harnesses use them), GET /v1/models, GET /health, and the tokenizer
/// endpoints /tokenize, /detokenize and /tokenizer_info. The prompts of one request are computed
/// together; requests wait for each other, and 64 may wait. The first line on stdout says where the
/// server listens. SIGINT and SIGTERM stop it within two seconds; answers under way have one of them.
///
/// Only requests to this server's own names are answered: loopback ones, the address that a client
/// reached, and those of --allow-host. There is no encryption: keep to the loopback address, or put a
/// proxy before it; a key is wanted if --api-key-file or the variable MEDISWIFT_API_KEY names one.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift serve run
  mediswift serve run --host 127.0.0.1 --port 0 --json
  mediswift serve run --host 0.0.0.0 --allow-host models.example --api-key-file key.txt
  mediswift serve tuned --soft-prompt")]
pub struct Serve {
    /// The run folder, made by `pretrain`
    #[arg(value_name = "RUN")]
    run: PathBuf,

    #[command(flatten)]
    which: Which,

    /// The address to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    host: IpAddr,

    /// The port to listen on; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// What clients call the model [default: the name of the run folder]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Answer requests to this host name as well; may be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,

    /// Answer only those who send the key in this file, as `Authorization: Bearer KEY`
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Break off a request that is computed for longer
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    time_limit: u64,

    /// Show prompts to the model as fine-tuning did: after an end of text, and followed by its soft
    /// prompt
    #[arg(long)]
    soft_prompt: bool,
}

impl Verb for Serve {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let key = key::find(self.api_key_file.as_deref())?;
        let LoadedModel { gpt, tokenizer, .. } = trained::load(&self.run, self.which)?;
        match gpt.prompt_tokens() {
            0 if self.soft_prompt => {
                return Err(
                    Exit::usage("the model has no soft prompt: leave --soft-prompt out").into()
                );
            }
            0 => {}
            _ if self.soft_prompt => {}
            _ => output::note(trained::HAS_SOFT_PROMPT),
        }
        let folder = self.run.canonicalize().ok();
        let folder = folder.as_ref().and_then(|path| path.file_name());
        let folder = folder.map_or("mediswift".into(), |name| name.to_string_lossy().into_owned());
        let connections = most_connections()?;
        let places = MOST_REQUESTS.min(connections / 4);
        let stops = Arc::new(AtomicBool::new(false));
        let queue = |limit| Queue::new(places, Duration::from_secs(limit), Arc::clone(&stops));
        let service = Arc::new(Service {
            name: self.name.unwrap_or(folder),
            started: now(),
            gpt,
            longest_token: longest_token(&tokenizer),
            tokenizer,
            soft_prompt: self.soft_prompt,
            guard: Guard::new(self.allow_host, key.as_deref()),
            reading: queue(self.time_limit),
            computing: queue(self.time_limit),
            stops: Arc::clone(&stops),
            requests: AtomicU64::new(0),
        });
        let listener = Listener::bind(self.host, self.port).map_err(|error| {
            anyhow::anyhow!("cannot listen on {}, port {}: {error}", self.host, self.port)
        })?;
        let address = listener.address()?;
        let signals = StopSignal::watch()?;
        output::note(&format!("note: {NOTICE} Output may be wrong or harmful."));
        if !self.host.is_loopback() && !service.guard.has_key() {
            output::warning(
                "anyone who reaches this address can use the model: --api-key-file asks for a key",
            );
        }
        announce(&format!("http://{address}"), &service, context.json)?;
        listener.serve(&service, connections, &signals);
        let requests = service.requests.load(Ordering::Relaxed);
        output::note(&format!("stopped after {requests} requests"));
        Ok(Outcome::new(Value::Null, ""))
    }
}

/// As many connections as the system lets the program have open, at most [`MOST_CONNECTIONS`].
fn most_connections() -> anyhow::Result<usize> {
    const FEWEST: usize = 8;
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let most = limit.saturating_sub(OTHER_FILES).min(MOST_CONNECTIONS);
    anyhow::ensure!(
        most >= FEWEST,
        "the system allows {limit} open files, but a server needs {}: raise `ulimit -n`",
        OTHER_FILES + FEWEST
    );
    Ok(most)
}

/// Says where the server listens, at once.
fn announce(url: &str, service: &Service, as_json: bool) -> anyhow::Result<()> {
    let line = if as_json {
        let positions = service.gpt.size().context;
        json!({ "url": url, "model": service.name, "context": positions, "notice": NOTICE })
            .to_string()
    } else {
        format!("listening on {url}")
    };
    output::print(&format!("{line}\n"))
}
