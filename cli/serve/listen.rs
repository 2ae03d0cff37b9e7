//! Takes connections, and gives each of them to HTTP: one request, one answer, within limits.
//!
//! A connection serves one request. So nothing that was sent can be taken for another request than
//! what was read, and nobody keeps a place without asking for something.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, join, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutWriter;

use super::connections::{Connections, Seat};
use super::head::{self, Head};
use super::routes::Visit;
use super::service::Service;
use crate::signals::StopSignal;

/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a client may read nothing of its answer.
const READ_TIME: Duration = Duration::from_secs(20);

/// How long a client may take to close its connection after its answer.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// How long answers under way have to be completed when the server is told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// How long they have to say, after that, that the server stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long to wait before looking at something again.
const TICK: Duration = Duration::from_millis(50);

/// A server that clients can connect to.
pub struct Listener {
    runtime: Runtime,
    listener: TcpListener,
}

impl Listener {
    pub fn bind(host: IpAddr, port: u16) -> io::Result<Self> {
        // One thread shovels bytes; what takes time runs on two others, one for each queue: every thread
        // keeps some memory that it has used.
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let listener = runtime.block_on(TcpListener::bind((host, port)))?;
        Ok(Self { runtime, listener })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until a signal comes, with at most so many connections at once.
    pub fn serve(self, service: &Arc<Service>, most: usize, signals: &StopSignal) {
        let Self { runtime, listener } = self;
        runtime.block_on(async {
            let connections = Connections::new(most);
            while signals.flow().is_continue() {
                match timeout(TICK, listener.accept()).await {
                    Ok(Ok((stream, _))) => {
                        connections.admit(|seat| attend(Arc::clone(service), stream, seat))
                    }
                    // The system has no more to give for the moment.
                    Ok(Err(_)) => sleep(TICK).await,
                    Err(_) => {}
                }
            }
            drop(listener);
            connections.dismiss_silent();
            until(Instant::now() + GRACE, || connections.are_empty()).await;
            service.stops.store(true, Ordering::Relaxed);
            until(Instant::now() + FAREWELL, || connections.are_empty()).await;
        });
        // What the model is at may take longer, but nobody waits for it.
        runtime.shutdown_background();
    }
}

async fn until(end: Instant, done: impl Fn() -> bool) {
    while !done() && Instant::now() < end {
        sleep(TICK / 5).await;
    }
}

/// Serves one connection.
async fn attend(service: Arc<Service>, stream: TcpStream, seat: Arc<Seat>) {
    let Ok(local) = stream.local_addr() else { return };
    // Pieces of an answer are sent as they come. It goes without.
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let Ok(Ok(head)) = timeout(HEAD_TIME, Head::read(&mut reader)).await else { return };
    let Head { bytes, is_ambiguous } = head;

    let visit =
        Arc::new(Visit { service, seat: Arc::clone(&seat), local: local.ip(), is_ambiguous });
    let answer = service_fn(move |request: Request<Incoming>| {
        let visit = Arc::clone(&visit);
        Box::pin(async move { Ok::<_, Infallible>(visit.answer(request).await) })
    });
    let mut writer = TimeoutWriter::new(writer);
    writer.set_timeout(Some(READ_TIME));
    let io = TokioIo::new(join(io::Cursor::new(bytes).chain(reader), Box::pin(writer)));
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(head::MOST_BYTES)
        .max_headers(head::MOST_LINES)
        .serve_connection(io, answer);
    let _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;

    // With something unread, closing would destroy the answer before it is read.
    let (mut reader, mut writer) = connection.into_parts().io.into_inner().into_inner();
    let _ = writer.shutdown().await;
    let _ = timeout(CLOSING_TIME, copy(&mut reader, &mut sink())).await;
    drop(seat);
}
