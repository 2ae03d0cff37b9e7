//! The beginning of a request: it must come in time, and mean one thing only.

use std::io;

use httparse::{EMPTY_HEADER, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head, in bytes.
pub const MOST_BYTES: usize = 32 << 10;

/// Most header lines.
pub const MOST_LINES: usize = 100;

/// What a client has sent first.
pub struct Head {
    /// The head, whole unless it is broken or too long, and what came with it.
    pub bytes: Vec<u8>,
    /// Whether it says twice how long the body is. Whoever stands between client and server might read
    /// it otherwise, so it is refused even where both say the same.
    pub is_ambiguous: bool,
}

impl Head {
    /// Reads until the head is complete, cannot become one, or is too long: whoever parses it next says
    /// what is wrong.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(1 << 10);
        loop {
            let begins = bytes.len();
            if from.read_buf(&mut bytes).await? == 0 {
                return Ok(Self { bytes, is_ambiguous: false });
            }
            // A head ends with a line.
            if bytes[begins..].contains(&b'\n') {
                let mut lines = [EMPTY_HEADER; MOST_LINES];
                let mut request = httparse::Request::new(&mut lines);
                match request.parse(&bytes) {
                    Ok(Status::Partial) => {}
                    Ok(Status::Complete(_)) => {
                        let is_ambiguous = is_ambiguous(request.headers);
                        return Ok(Self { bytes, is_ambiguous });
                    }
                    Err(_) => return Ok(Self { bytes, is_ambiguous: false }),
                }
            }
            if bytes.len() >= MOST_BYTES {
                return Ok(Self { bytes, is_ambiguous: false });
            }
        }
    }
}

fn is_ambiguous(lines: &[httparse::Header<'_>]) -> bool {
    let count = |name| lines.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).count();
    count("content-length") + count("transfer-encoding") > 1
}
