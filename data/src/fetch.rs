//! PubMed's files from the National Library of Medicine, or a mirror: checked, resumed, in parallel.
//!
//! The library publishes a yearly baseline and daily updates as folders of `pubmedYYnNNNN.xml.gz`,
//! each with an `.md5` beside it. A file is downloaded under another name, continued where an earlier
//! attempt broke off, compared with its MD5 and renamed. Files that are there and whole are left alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use md5::{Digest, Md5};
use mediswift_files::{self as files, Log};

use crate::DataError;
use crate::error::RequestProblem;

/// The yearly baseline.
pub const BASELINE: &str = "https://ftp.ncbi.nlm.nih.gov/pubmed/baseline/";

/// More connections at a time are not polite.
pub const MAX_JOBS: usize = 8;

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of files, as a URL.
    pub base_url: String,
    /// Numbers of files; empty: all that are listed.
    pub numbers: Vec<RangeInclusive<u32>>,
    /// The folder to put them in.
    pub out: PathBuf,
    /// Connections at a time, at most [`MAX_JOBS`].
    pub jobs: usize,
    /// Attempts at a file before it is given up.
    pub attempts: u32,
    /// Pause before the second attempt, doubled for each further one.
    pub pause: Duration,
}

/// What became of the files.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// Downloaded now.
    pub downloaded: Vec<PathBuf>,
    /// There and whole already.
    pub kept: Vec<PathBuf>,
    /// Not to be had, with the reason.
    pub failed: BTreeMap<String, String>,
    /// Bytes received.
    pub bytes: u64,
}

/// How far [`fetch`] has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Files done, failed ones too.
    pub files: usize,
    /// Files asked for.
    pub files_total: usize,
    /// Bytes received.
    pub bytes: u64,
}

/// Downloads what is not there yet.
///
/// # Errors
/// When the list cannot be read or lacks what was asked for, the disk refuses, or
/// [`DataError::Interrupted`]. Files that fail one by one are in the result.
pub fn fetch(
    options: &Options,
    progress: &mut (dyn FnMut(&Progress) -> ControlFlow<()> + Send),
) -> Result<Fetched, DataError> {
    let mut session = Session {
        options,
        agent: agent(),
        base: format!("{}/", options.base_url.trim_end_matches('/')),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let names = session.wanted()?;
    files::create_folders(&options.out)?;
    let session = &mut session;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fetched = Mutex::new((Fetched::default(), None::<DataError>));
    std::thread::scope(|scope| {
        let session = &*session;
        let workers: Vec<_> = (0..options.jobs.clamp(1, MAX_JOBS))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = session.file(name);
                        let Ok(mut all) = fetched.lock() else { return };
                        match outcome {
                            Ok(Outcome::Downloaded(path)) => all.0.downloaded.push(path),
                            Ok(Outcome::Kept(path)) => all.0.kept.push(path),
                            Ok(Outcome::Failed(why)) => {
                                all.0.failed.insert(name.clone(), why);
                            }
                            Err(error) => {
                                session.stop.store(true, Ordering::Relaxed);
                                all.1.get_or_insert(error);
                                return;
                            }
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let now = Progress {
                files: done.load(Ordering::Relaxed),
                files_total: names.len(),
                bytes: session.bytes.load(Ordering::Relaxed),
            };
            if progress(&now).is_break() {
                session.stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (mut all, error) = fetched.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(error) = error {
        return Err(error);
    }
    all.downloaded.sort();
    all.kept.sort();
    all.bytes = session.bytes.load(Ordering::Relaxed);
    Ok(all)
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .user_agent(concat!("mediswift/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

enum Outcome {
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

struct Session<'a> {
    options: &'a Options,
    agent: ureq::Agent,
    base: String,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Session<'_> {
    /// Names of the files asked for, from the list that the server shows of its folder.
    fn wanted(&self) -> Result<Vec<String>, DataError> {
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

    fn text(&self, url: &str) -> Result<String, Failure> {
        let mut response = self.get(url, 0)?;
        response.body_mut().read_to_string().map_err(|e| Failure::Passing(e.to_string()))
    }

    fn file(&self, name: &str) -> Result<Outcome, DataError> {
        let path = self.options.out.join(name);
        let url = format!("{}{name}", self.base);
        let expected = match self.retry(|| md5_of_list(&self.text(&format!("{url}.md5"))?))? {
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
            // All of it is there, or more than all.
            return Ok(());
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

/// Files named in a listing, by number.
fn names_in(listing: &str) -> BTreeMap<u32, String> {
    const ENDING: &str = ".xml.gz";
    let mut names = BTreeMap::new();
    for (at, _) in listing.match_indices("pubmed") {
        let Some(length) = listing[at..].find(ENDING).filter(|&length| length < 20) else {
            continue;
        };
        let name = &listing[at..at + length + ENDING.len()];
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts = name["pubmed".len()..length].split_once('n');
        if let Some((year, number)) = parts.filter(|(year, number)| digits(year) && digits(number))
            && let Ok(number) = number.parse()
        {
            // Of several years, the latest.
            let known: &mut String = names.entry(number).or_insert_with(|| name.to_owned());
            if name > known.as_str() && !year.is_empty() {
                *known = name.to_owned();
            }
        }
    }
    names
}

/// The sum in an `.md5` file, whichever of the usual forms it has.
fn md5_of_list(text: &str) -> Result<String, Failure> {
    let is_sum = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find(is_sum)
        .map(str::to_lowercase)
        .ok_or_else(|| Failure::Lasting("it holds no MD5".to_owned()))
}

fn md5_of_file(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(|e| DataError::io("open", path, e))?;
    let mut hasher = Md5::new();
    std::io::copy(&mut file, &mut hasher).map_err(|e| DataError::io("read", path, e))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::Arc;

    use std::io::Write;

    use super::*;

    /// A server that fails on purpose: every file breaks off once in the middle, the second answers
    /// 503 first, the third is damaged the first time it is whole, the fourth is never right.
    struct Server {
        address: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    fn content(number: u32) -> Vec<u8> {
        (0..200_000u32).map(|i| (i.wrapping_mul(number + 7) >> 5) as u8).collect()
    }

    fn sum(bytes: &[u8]) -> String {
        Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    impl Server {
        fn start(continues: bool) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = format!("http://{}/baseline", listener.local_addr().expect("address"));
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&requests);
            std::thread::spawn(move || {
                let mut seen: HashMap<String, u32> = HashMap::new();
                for connection in listener.incoming() {
                    let Ok(mut connection) = connection else { continue };
                    let mut lines = BufReader::new(connection.try_clone().expect("clone")).lines();
                    let Some(Ok(first)) = lines.next() else { continue };
                    let headers: Vec<String> =
                        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                    let from = headers.iter().find_map(|line| {
                        line.to_lowercase()
                            .strip_prefix("range: bytes=")?
                            .trim_end_matches('-')
                            .parse()
                            .ok()
                    });
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    log.lock().expect("log").push(format!("{path} {from:?}"));
                    let times = seen.entry(path.clone()).or_default();
                    *times += 1;
                    let answer = answer(&path, *times, if continues { from } else { None });
                    let _ = connection.write_all(&answer);
                }
            });
            Self { address, requests }
        }

        fn options(&self, out: &Path, numbers: RangeInclusive<u32>) -> Options {
            Options {
                base_url: self.address.clone(),
                numbers: vec![numbers],
                out: out.to_owned(),
                jobs: 2,
                attempts: 4,
                pause: Duration::from_millis(1),
            }
        }
    }

    fn answer(path: &str, times: u32, from: Option<usize>) -> Vec<u8> {
        let reply = |status: &str, length: usize, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            [head.as_bytes(), body].concat()
        };
        let name = path.trim_start_matches("/baseline/");
        if name.is_empty() {
            let list: String =
                (1..=5).map(|n| format!("<a href=\"pubmed26n{n:04}.xml.gz\">x</a>")).collect();
            return reply("200 OK", list.len(), list.as_bytes());
        }
        let number: u32 = name[9..13].parse().expect("a number");
        let mut body = content(number);
        if number == 2 && times == 1 {
            return reply("503 Busy", 0, b"");
        }
        if name.ends_with(".md5") {
            if number == 5 {
                return reply("404 Not Found", 0, b"");
            }
            let line = format!("MD5({name})= {}\n", sum(&body));
            return reply("200 OK", line.len(), line.as_bytes());
        }
        if number == 4 || number == 3 && times <= 2 {
            body[100] ^= 1;
        }
        let (status, body) = match from {
            Some(from) => ("206 Partial", &body[from..]),
            None => ("200 OK", &body[..]),
        };
        let cut = if times == 1 { body.len() / 2 } else { body.len() };
        reply(status, body.len(), &body[..cut])
    }

    fn run(options: &Options) -> Result<Fetched, DataError> {
        fetch(options, &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn files_arrive_whole_from_a_server_that_fails() {
        for continues in [true, false] {
            let server = Server::start(continues);
            let folder = tempfile::tempdir().expect("temporary folder");
            let options = server.options(folder.path(), 1..=5);
            let fetched = run(&options).expect("fetch");
            assert_eq!(fetched.downloaded.len(), 3, "{fetched:?}");
            for number in 1..=3 {
                let path = folder.path().join(format!("pubmed26n{number:04}.xml.gz"));
                assert!(fs::read(path).expect("read") == content(number), "{number}");
            }
            let why = |name: &str| fetched.failed.get(name).cloned().unwrap_or_default();
            assert!(why("pubmed26n0004.xml.gz").contains("MD5"), "{fetched:?}");
            assert!(why("pubmed26n0005.xml.gz").contains("404"), "{fetched:?}");
            assert!(!folder.path().join("pubmed26n0004.xml.gz").exists());
            let log = server.requests.lock().expect("log").clone();
            let continued =
                log.iter().any(|line| line == "/baseline/pubmed26n0001.xml.gz Some(100000)");
            assert!(continued, "{log:?}");

            let again = run(&server.options(folder.path(), 1..=3)).expect("fetch");
            assert_eq!((again.kept.len(), again.downloaded.len()), (3, 0));
            fs::write(folder.path().join("pubmed26n0001.xml.gz"), "damaged").expect("write");
            let again = run(&server.options(folder.path(), 1..=1)).expect("fetch");
            assert_eq!(again.downloaded.len(), 1);
        }
    }

    #[test]
    fn what_is_not_listed_or_not_there_is_said() {
        let server = Server::start(true);
        let folder = tempfile::tempdir().expect("temporary folder");
        let message = run(&server.options(folder.path(), 5..=6)).expect_err("no 6").to_string();
        assert!(message.contains("number 6") && message.contains("from 1 to 5"), "{message}");
        let nobody = Options {
            base_url: "http://127.0.0.1:1/".to_owned(),
            ..server.options(folder.path(), 1..=1)
        };
        assert!(run(&nobody).expect_err("nobody").to_string().contains("127.0.0.1:1"));
        let stopped = fetch(&server.options(folder.path(), 1..=3), &mut |_| ControlFlow::Break(()));
        assert!(
            matches!(stopped, Err(DataError::Interrupted))
                || stopped.is_ok_and(|f| f.downloaded.len() == 3)
        );
    }

    #[test]
    fn listings_and_sums_are_understood() {
        let names = names_in(
            "pubmed25n0001.xml.gz pubmed26n0001.xml.gz.md5 pubmed26n0012.xml.gz pubmedxnx.xml.gz pubmed",
        );
        assert_eq!(
            names.values().collect::<Vec<_>>(),
            ["pubmed26n0001.xml.gz", "pubmed26n0012.xml.gz"]
        );
        let sum = "0123456789abcdef0123456789ABCDEF";
        for text in [format!("MD5(x.gz)= {sum}\n"), format!("{sum}  x.gz"), sum.to_owned()] {
            assert_eq!(md5_of_list(&text).ok(), Some(sum.to_lowercase()));
        }
        assert!(md5_of_list("no sum").is_err());
    }
}
