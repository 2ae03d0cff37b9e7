//! Who is connected, and who has to go when there are too many.
//!
//! A client may be slow, silent or gone without a word. It keeps its connection until its time is over,
//! but never at the cost of others: when a new client comes and all places are taken, the one that has
//! sent or read for longest goes; when requests and answers fill the memory meant for them, the one that
//! holds most goes. Nobody goes whose request waits or is computed: of these there are few.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Most bytes of requests half read and answers half sent.
const MOST_HELD: usize = 64 << 20;

/// All clients.
pub struct Connections {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Counts what happens.
    clock: u64,
    clients: HashMap<u64, Client>,
}

struct Client {
    task: AbortHandle,
    phase: Phase,
    /// When the phase began.
    since: u64,
    /// Bytes that the server holds for it.
    held: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// It sends its request.
    Asking,
    /// Its request waits, or is computed.
    Computed,
    /// It reads its answer.
    Answered,
}

/// The place of one client, free again when it is dropped.
pub struct Seat {
    number: u64,
    connections: Arc<Connections>,
}

/// A client's request waits or is computed, until this is dropped.
pub struct Computed(Arc<Seat>);

impl Connections {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default() })
    }

    /// Attends to a new client, if need be in the place of another.
    pub fn admit<F>(self: &Arc<Self>, attend: impl FnOnce(Arc<Seat>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut table = self.table();
        if table.clients.len() >= self.most {
            let Some(oldest) = table.first_of(|client| client.since) else { return };
            table.send_away(oldest);
        }
        let number = table.tick();
        let seat = Seat { number, connections: Arc::clone(self) };
        let task = tokio::spawn(attend(Arc::new(seat))).abort_handle();
        let client = Client { task, phase: Phase::Asking, since: number, held: 0 };
        table.clients.insert(number, client);
    }

    /// Sends away all who have not asked for anything yet.
    pub fn dismiss_silent(&self) {
        let mut table = self.table();
        let asking = table.clients.iter().filter(|(_, client)| client.phase == Phase::Asking);
        let asking: Vec<u64> = asking.map(|(&number, _)| number).collect();
        asking.into_iter().for_each(|number| table.send_away(number));
    }

    pub fn are_empty(&self) -> bool {
        self.table().clients.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Of those who may go, the client with the smallest key.
    fn first_of<K: Ord>(&self, key: impl Fn(&Client) -> K) -> Option<u64> {
        let may_go = self.clients.iter().filter(|(_, client)| client.phase != Phase::Computed);
        may_go.min_by_key(|(_, client)| key(client)).map(|(&number, _)| number)
    }

    fn send_away(&mut self, number: u64) {
        if let Some(client) = self.clients.remove(&number) {
            client.task.abort();
        }
    }
}

impl Seat {
    /// Takes note of how many bytes are held for the client.
    pub fn holds(&self, bytes: usize) {
        let mut table = self.connections.table();
        if let Some(client) = table.clients.get_mut(&self.number) {
            client.held = bytes;
        }
        while table.clients.values().map(|client| client.held).sum::<usize>() > MOST_HELD {
            let Some(largest) = table.first_of(|client| usize::MAX - client.held) else { return };
            table.send_away(largest);
        }
    }

    /// The request is complete.
    pub fn computed(self: &Arc<Self>) -> Computed {
        self.begin(Phase::Computed);
        Computed(Arc::clone(self))
    }

    fn begin(&self, phase: Phase) {
        let mut table = self.connections.table();
        let since = table.tick();
        if let Some(client) = table.clients.get_mut(&self.number) {
            (client.phase, client.since) = (phase, since);
        }
    }
}

impl Drop for Computed {
    fn drop(&mut self) {
        self.0.begin(Phase::Answered);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.table().clients.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use super::*;

    /// Connections of which each never ends by itself, and the seats as they are taken.
    fn clients(most: usize, count: usize) -> (Arc<Connections>, Vec<Arc<Seat>>) {
        let connections = Connections::new(most);
        let seats = (0..count).map(|_| admit(&connections)).collect();
        (connections, seats)
    }

    fn admit(connections: &Arc<Connections>) -> Arc<Seat> {
        let (tell, seat) = mpsc::channel();
        connections.admit(|seat| {
            tell.send(seat).expect("it is read below");
            pending()
        });
        seat.recv().expect("a seat was given")
    }

    fn numbers(connections: &Connections) -> Vec<u64> {
        let mut numbers: Vec<u64> = connections.table().clients.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn in_a_runtime(test: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { test() });
    }

    #[test]
    fn the_oldest_that_is_not_computed_goes_first() {
        in_a_runtime(|| {
            let (connections, seats) = clients(3, 3);
            let numbers_of = |seats: &[&Arc<Seat>]| -> Vec<u64> {
                seats.iter().map(|seat| seat.number).collect()
            };
            let computed = seats[0].computed();
            let fourth = admit(&connections);
            assert_eq!(numbers(&connections), numbers_of(&[&seats[0], &seats[2], &fourth]));
            // Whoever got its answer just now is the youngest.
            drop(computed);
            let fifth = admit(&connections);
            assert_eq!(numbers(&connections), numbers_of(&[&seats[0], &fourth, &fifth]));
            // Where all are computed, nobody else comes in.
            let all = [&seats[0], &fourth, &fifth];
            let computed = all.map(|seat| seat.computed());
            connections.admit(|_| -> std::future::Pending<()> { panic!("there is no place") });
            assert_eq!(numbers(&connections), numbers_of(&all));
            connections.dismiss_silent();
            assert_eq!(numbers(&connections).len(), 3, "they have asked");
            drop(computed);
            drop((seats, fourth, fifth));
            assert!(connections.are_empty());
        });
    }

    #[test]
    fn whoever_holds_most_goes_first() {
        in_a_runtime(|| {
            let (connections, seats) = clients(9, 4);
            seats[1].holds(MOST_HELD / 2);
            seats[2].holds(MOST_HELD / 3);
            let computed = seats[3].computed();
            seats[3].holds(MOST_HELD / 6);
            assert_eq!(numbers(&connections).len(), 4);
            seats[0].holds(MOST_HELD / 4);
            let left = [0, 2, 3].map(|at| seats[at].number);
            assert_eq!(numbers(&connections), left);
            drop(computed);
        });
    }
}
