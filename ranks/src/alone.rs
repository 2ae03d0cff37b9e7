//! [`Alone`]: one rank.

use crate::{Lost, Ranks, Traffic};

/// The only rank there is. There is nobody it could talk to, and nothing that it does for being one costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn exchange(&self, to: usize, _: &[u8], from: usize, _: &mut [u8]) -> Result<(), Lost> {
        panic!("there is no rank {} to talk to", to.max(from));
    }

    fn end(&self, _: &str) {}

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn transport(&self) -> String {
        "nothing: there is one rank".into()
    }
}
