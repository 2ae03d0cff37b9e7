//! Getting files from a server that fails now and then.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use md5::{Digest, Md5};
use mediswift_files::{self as files, Log};

use super::download::Download;
use super::listing::{md5_of_list, names_in};
use crate::DataError;
use crate::error::RequestProblem;

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .user_agent(concat!("mediswift/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

/// What became of a file.
pub(crate) enum Outcome {
    Downloaded(PathBuf),
    Kept(PathBuf),
    Failed(String),
}

/// Why one attempt did not succeed.
enum Failure {
    /// Another attempt may.
    Passing(String),
    /// No attempt will.
    Lasting(String),
    /// Of ours: the work ends.
    Own(DataError),
}

fn own(error: files::Error) -> Failure {
    Failure::Own(error.into())
}

/// A conversation with a server, held on several threads.
pub(crate) struct Session<'a> {
    options: &'a Download,
    agent: ureq::Agent,
    base: String,
    /// Bytes received.
    pub bytes: AtomicU64,
    /// Set to end it.
    pub stop: AtomicBool,
}

impl<'a> Session<'a> {
    pub fn new(options: &'a Download) -> Self {
        Self {
            options,
            agent: agent(),
            base: format!("{}/", options.base_url.trim_end_matches('/')),
            bytes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Names of the files asked for, from the list that the server shows of its folder.
    pub fn wanted(&self) -> Result<Vec<String>, DataError> {
        let listed = self
            .retry(|| self.text(&self.base))?
            .map_err(|why| RequestProblem::NoAnswer { url: self.base.clone(), why })?;
        let names = names_in(&listed);
        if self.options.numbers.is_empty() && !names.is_empty() {
            return Ok(names.into_values().collect());
        }
        let mut wanted = Vec::new();
        for number in self.options.numbers.iter().cloned().flatten() {
            let Some(name) = names.get(&number) else {
                let ends = names.keys().next().zip(names.keys().last());
                let listed = ends.map(|(first, last)| (*first, *last));
                let url = self.base.clone();
                return Err(RequestProblem::NotListed { url, number, listed }.into());
            };
            wanted.push(name.clone());
        }
        if wanted.is_empty() {
            return Err(RequestProblem::NothingListed { url: self.base.clone() }.into());
        }
        wanted.sort();
        wanted.dedup();
        Ok(wanted)
    }

    /// Tries until it succeeds, fails for good, or has failed too often: the inner error says why.
    fn retry<T>(
        &self,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<Result<T, String>, DataError> {
        let mut pause = self.options.pause;
        for left in (0..self.options.attempts.max(1)).rev() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DataError::Interrupted);
            }
            match attempt() {
                Ok(value) => return Ok(Ok(value)),
                Err(Failure::Own(error)) => return Err(error),
                Err(Failure::Lasting(why)) => return Ok(Err(why)),
                Err(Failure::Passing(why)) if left == 0 => {
                    let attempts = self.options.attempts.max(1);
                    return Ok(Err(format!("{why} ({attempts} attempts)")));
                }
                Err(Failure::Passing(_)) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        Ok(Err("no attempt was made".to_owned()))
    }

    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Lasting(error.to_string()),
            error => Failure::Passing(error.to_string()),
        })?;
        match response.status().as_u16() {
            200 | 206 | 416 => Ok(response),
            status @ (408 | 429 | 500..=599) => Err(Failure::Passing(format!("status {status}"))),
            status => Err(Failure::Lasting(format!("status {status}"))),
        }
    }

    fn sum(&self, url: &str) -> Result<String, Failure> {
        let missing = || Failure::Lasting("it holds no MD5".to_owned());
        md5_of_list(&self.text(url)?).ok_or_else(missing)
    }

    fn text(&self, url: &str) -> Result<String, Failure> {
        let mut response = self.get(url, 0)?;
        response.body_mut().read_to_string().map_err(|e| Failure::Passing(e.to_string()))
    }

    /// Fetches a file, unless it is there and whole.
    pub fn file(&self, name: &str) -> Result<Outcome, DataError> {
        let path = self.options.out.join(name);
        let url = format!("{}{name}", self.base);
        let expected = match self.retry(|| self.sum(&format!("{url}.md5")))? {
            Ok(sum) => sum,
            Err(why) => return Ok(Outcome::Failed(format!("{url}.md5: {why}"))),
        };
        if path.is_file() && md5_of_file(&path)? == expected {
            return Ok(Outcome::Kept(path));
        }
        let partial = path.with_file_name(format!(".{name}.part"));
        let fetched = self.retry(|| {
            self.download(&url, &partial)?;
            let found = md5_of_file(&partial).map_err(Failure::Own)?;
            if found == expected {
                return Ok(());
            }
            // Continuing it would keep the damage.
            files::remove(&partial).map_err(own)?;
            Err(Failure::Passing(format!("its MD5 is {found}, not {expected}")))
        })?;
        match fetched {
            Ok(()) => {
                files::rename(&partial, &path)?;
                files::sync_folder(&self.options.out)?;
                Ok(Outcome::Downloaded(path))
            }
            Err(why) => Ok(Outcome::Failed(format!("{url}: {why}"))),
        }
    }

    /// Appends to `partial` what it lacks.
    fn download(&self, url: &str, partial: &Path) -> Result<(), Failure> {
        let there = fs::metadata(partial).map_or(0, |about| about.len());
        let response = self.get(url, there)?;
        let status = response.status().as_u16();
        if status == 416 {
            // All of it is there, or more than all; whoever wrote it may not have waited for the disk.
            return Log::open(partial).and_then(|file| file.sync()).map_err(own);
        }
        let mut file = Log::open(partial).map_err(own)?;
        if status == 200 {
            // The server does not continue: from the beginning.
            file.cut(0).map_err(own)?;
        }
        let expected: Option<u64> = response
            .headers()
            .get("content-length")
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::Own(DataError::Interrupted));
            }
            let read = body
                .read(&mut buffer)
                .map_err(|e| Failure::Passing(format!("the connection broke off ({e})")))?;
            if read == 0 {
                break;
            }
            file.append(&buffer[..read]).map_err(own)?;
            received += read as u64;
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        if expected.is_some_and(|expected| received < expected) {
            return Err(Failure::Passing("the connection broke off".to_owned()));
        }
        file.sync().map_err(own)
    }
}

fn md5_of_file(path: &Path) -> Result<String, DataError> {
    let mut file = files::open(path)?;
    let mut hasher = Md5::new();
    std::io::copy(&mut file, &mut hasher).map_err(|e| DataError::io("read", path, e))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
