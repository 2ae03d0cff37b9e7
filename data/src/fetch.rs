//! PubMed's files from the National Library of Medicine, or a mirror: checked, resumed, in parallel.
//!
//! The library publishes a yearly baseline and daily updates as folders of `pubmedYYnNNNN.xml.gz`,
//! each with an `.md5` beside it. A file is downloaded under another name, continued where an earlier
//! attempt broke off, compared with its MD5 and renamed. Files that are there and whole are left alone.

mod download;
mod listing;
mod session;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mediswift_files as files;

use self::session::{Outcome, Session};
use crate::DataError;

pub use download::{BASELINE, Download, MAX_JOBS};

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
pub struct FetchProgress {
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
    options: &Download,
    progress: &mut (dyn FnMut(&FetchProgress) -> ControlFlow<()> + Send),
) -> Result<Fetched, DataError> {
    let session = &Session::new(options);
    let names = session.wanted()?;
    files::create_folders(&options.out)?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fetched = Mutex::new((Fetched::default(), None::<DataError>));
    std::thread::scope(|scope| {
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
            let now = FetchProgress {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::Arc;

    use std::io::Write;

    use std::fs;
    use std::ops::RangeInclusive;
    use std::path::Path;
    use std::time::Duration;

    use md5::{Digest, Md5};
    use mediswift_files::faults::{self, Recording};

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

        fn options(&self, out: &Path, numbers: RangeInclusive<u32>) -> Download {
            Download {
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

    fn run(options: &Download) -> Result<Fetched, DataError> {
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
    fn a_file_is_whole_or_not_there_whatever_stops_its_download() {
        let server = Server::start(true);
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("create");
        let download = |root: &Path| {
            let options = Download { jobs: 1, ..server.options(&root.join("baseline"), 1..=1) };
            run(&options).expect("fetch")
        };
        let (fetched, recording) = Recording::of(&root, || download(&root));
        assert_eq!(fetched.downloaded.len(), 1);
        let steps = recording.steps().len();
        assert!(steps > 8, "only {steps} steps were seen");
        let name = "pubmed26n0001.xml.gz";
        recording.each_state(folder.path(), 4, |state| {
            let last = (state.power_cut, state.done.last());
            let file = state.folder.join("baseline").join(name);
            if let Ok(found) = fs::read(&file) {
                assert!(found == content(1), "{last:?}");
            }
            download(state.folder);
            let left = fs::read_dir(state.folder.join("baseline")).expect("list");
            let left: Vec<_> = left.map(|entry| entry.expect("entry").file_name()).collect();
            assert_eq!(left, [name], "{last:?}");
            assert!(fs::read(&file).expect("read") == content(1), "{last:?}");
        });
        let refused = |before: usize| {
            fs::remove_dir_all(&root).expect("remove");
            fs::create_dir(&root).expect("create");
            let options = Download { jobs: 1, ..server.options(&root.join("baseline"), 1..=1) };
            faults::fail(&root, before, || run(&options))
        };
        for before in 0.. {
            let (outcome, was_refused) = refused(before);
            if !was_refused {
                break;
            }
            let is_refusal = matches!(outcome, Err(DataError::Io { .. }));
            assert!(is_refusal, "step {before}: {outcome:?}");
            download(&root);
            assert!(fs::read(root.join("baseline").join(name)).expect("read") == content(1));
        }
    }

    #[test]
    fn what_is_not_listed_or_not_there_is_said() {
        let server = Server::start(true);
        let folder = tempfile::tempdir().expect("temporary folder");
        let message = run(&server.options(folder.path(), 5..=6)).expect_err("no 6").to_string();
        assert!(message.contains("number 6") && message.contains("from 1 to 5"), "{message}");
        let nobody = Download {
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
}
