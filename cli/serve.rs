//! `mediswift serve`.

mod completions;
mod http;
mod problem;
mod request;
mod service;
mod tokens;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mediswift_model::run::LoadedModel;
use serde_json::{Value, json};
use tiny_http::Server;

use self::service::{NOTICE, Service, now};
use crate::output;
use crate::signals::StopSignal;
use crate::trained::{self, Which};
use crate::verb::{Context, Outcome, Verb};

/// Requests that may be under way at once, waiting ones included.
const MOST_REQUESTS: usize = 64;

/// How long answers under way have to be completed when the server is told to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serve a trained model to clients of the OpenAI completions API
///
/// For research only, not for clinical use. Answers POST /v1/completions (with `echo` and
/// `logprobs`, as evaluation harnesses use them), GET /v1/models, GET /health, and the tokenizer
/// endpoints /tokenize, /detokenize and /tokenizer_info. The prompts of one request are computed
/// together; requests wait for each other. The first line on stdout says where the server listens.
/// SIGINT and SIGTERM stop it when the answers under way are complete.
///
/// There is no authentication and no encryption: keep to the loopback address, or put a proxy
/// before it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mediswift serve run
  mediswift serve run --host 127.0.0.1 --port 0 --json")]
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
}

/// Counts a request while it is under way.
struct Active<'a>(&'a AtomicUsize);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Verb for Serve {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let LoadedModel { gpt, tokenizer, .. } = trained::load(&self.run, self.which)?;
        let folder = self.run.canonicalize().ok();
        let folder = folder.as_ref().and_then(|path| path.file_name());
        let folder = folder.map_or("mediswift".into(), |name| name.to_string_lossy().into_owned());
        let service = Arc::new(Service {
            name: self.name.unwrap_or(folder),
            started: now(),
            gpt,
            tokenizer,
            turn: Mutex::new(()),
            active: AtomicUsize::new(0),
        });
        let server = Server::http((self.host, self.port)).map_err(|error| {
            anyhow::anyhow!("cannot listen on {}, port {}: {error}", self.host, self.port)
        })?;
        let address = server.server_addr().to_ip().expect("it listens on an IP address");
        let signals = StopSignal::watch()?;
        output::note(&format!("note: {NOTICE} Output may be wrong or harmful."));
        if !self.host.is_loopback() {
            output::warning("anyone who reaches this address can use the model");
        }
        let url = format!("http://{address}");
        announce(&url, &service, context.json)?;

        let mut answered = 0u64;
        while signals.flow().is_continue() {
            let Some(request) = server.recv_timeout(Duration::from_millis(50))? else { continue };
            answered += 1;
            let before = service.active.fetch_add(1, Ordering::SeqCst);
            let service = Arc::clone(&service);
            // Each has a thread of its own, so that a slow sender holds nobody up.
            let spawned = thread::Builder::new().name("request".into()).spawn(move || {
                let _active = Active(&service.active);
                http::answer(&service, request, before >= MOST_REQUESTS);
            });
            spawned?;
        }
        drop(server);
        let stopped = Instant::now();
        while service.active.load(Ordering::SeqCst) > 0 && stopped.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        output::note(&format!("stopped after {answered} requests"));
        Ok(Outcome::new(Value::Null, ""))
    }
}

/// Says where the server listens, at once.
fn announce(url: &str, service: &Service, as_json: bool) -> std::io::Result<()> {
    let line = if as_json {
        let positions = service.gpt.size().context;
        json!({ "url": url, "model": service.name, "context": positions, "notice": NOTICE })
            .to_string()
    } else {
        format!("listening on {url}")
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
