//! Ranks agree on what became of a piece of work, before any of them acts on it: one that stopped, skipped or
//! failed by itself would leave the others waiting for ever.

use crate::error::Error;
use mediswift_ranks::Ranks;
use mediswift_ranks::collectives::{gather, numbers};
use serde::{Deserialize, Serialize};

/// What of an [`Error`] matters to other ranks.
#[derive(Serialize, Deserialize)]
enum Problem {
    Stopped,
    NonFinite { what: String, name: String, position: usize, bits: u32 },
    Other(String),
}

/// What quantities that are not finite are called, to find the static text again.
const QUANTITIES: [&str; 6] = ["loss", "gradient", "weight", "moment", "new weight", "new moment"];

/// What all ranks return if all succeeded; otherwise an error on every rank: that of the first one that has
/// one, or its own if it failed itself. A failure counts more than a wish to stop, and that more than a number that is not finite.
/// # Errors
/// If a rank failed or is lost.
pub(crate) fn agree<T>(ranks: &dyn Ranks, mine: Result<T, Error>) -> Result<T, Error> {
    let (value, problem) = split(mine);
    agree_on(ranks, &[], problem)?;
    Ok(value.expect("no problem, so a value"))
}

/// [`agree`], where ranks tell each other numbers besides: those of every rank, in the order of ranks.
/// # Errors
/// As for [`agree`].
pub(crate) fn agree_telling<T>(
    ranks: &dyn Ranks,
    mine: Result<(T, Vec<f64>), Error>,
) -> Result<(T, Vec<Vec<f64>>), Error> {
    if ranks.count() == 1 {
        return mine.map(|(value, numbers)| (value, vec![numbers]));
    }
    let (mine, problem) = split(mine);
    let (value, told) = mine.unzip();
    let all = agree_on(ranks, bytemuck::cast_slice(&told.unwrap_or_default()), problem)?;
    let all = all.iter().map(|bytes| numbers(bytes)).collect();
    Ok((value.expect("no problem, so a value"), all))
}

/// The same, with nothing to keep.
/// # Errors
/// As for [`agree`].
pub(crate) fn agree_numbers(
    ranks: &dyn Ranks,
    mine: Result<Vec<f64>, Error>,
) -> Result<Vec<Vec<f64>>, Error> {
    Ok(agree_telling(ranks, mine.map(|numbers| ((), numbers)))?.1)
}

fn split<T>(outcome: Result<T, Error>) -> (Option<T>, Option<Error>) {
    match outcome {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

fn agree_on(
    ranks: &dyn Ranks,
    message: &[u8],
    problem: Option<Error>,
) -> Result<Vec<Vec<u8>>, Error> {
    if ranks.count() == 1 {
        return problem.map_or(Ok(vec![message.to_vec()]), Err);
    }
    if let Some(Error::Lost(_)) = problem {
        return Err(problem.expect("a problem"));
    }
    let said = match &problem {
        None => [&[1], message].concat(),
        Some(error) => [&[0], &serde_json::to_vec(&Problem::of(error)).expect("JSON")[..]].concat(),
    };
    let mut all = gather(ranks, &said)?;
    let failed = all.iter().enumerate().filter(|(_, said)| said[0] == 0);
    let failed = failed
        .map(|(rank, said)| (rank, serde_json::from_slice(&said[1..]).expect("what a rank said")));
    // The first of those that count most.
    match failed.min_by_key(|(_, problem): &(usize, Problem)| problem.order()) {
        None => {
            for said in &mut all {
                said.remove(0);
            }
            Ok(all)
        }
        Some((rank, _)) if rank == ranks.rank() => Err(problem.expect("its own")),
        Some((rank, worst)) => Err(match problem {
            // One that failed itself knows best why.
            Some(mine) if Problem::of(&mine).order() == 0 => mine,
            _ => worst.error(rank),
        }),
    }
}

impl Problem {
    fn of(error: &Error) -> Self {
        match error {
            Error::Stopped => Problem::Stopped,
            Error::NonFinite { what, name, position, value } => Problem::NonFinite {
                what: what.to_string(),
                name: name.clone(),
                position: *position,
                bits: value.to_bits(),
            },
            Error::OtherRank { problem, .. } => Problem::Other(problem.clone()),
            other => Problem::Other(with_causes(other)),
        }
    }

    fn order(&self) -> u8 {
        match self {
            Problem::Other(_) => 0,
            Problem::Stopped => 1,
            Problem::NonFinite { .. } => 2,
        }
    }

    /// The problem of that rank, as another one has it.
    fn error(self, rank: usize) -> Error {
        match self {
            Problem::Stopped => Error::Stopped,
            Problem::Other(problem) => Error::OtherRank { rank, problem },
            Problem::NonFinite { what, name, position, bits } => Error::NonFinite {
                what: QUANTITIES.into_iter().find(|known| *known == what).unwrap_or("number"),
                name,
                position,
                value: f32::from_bits(bits),
            },
        }
    }
}

/// An error and what it comes from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(cause) => format!("{error}: {}", with_causes(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediswift_ranks::Threads;

    fn non_finite() -> Error {
        let name = "micro-batch 3 of 4".to_string();
        Error::NonFinite { what: "loss", name, position: 5, value: f32::NEG_INFINITY }
    }

    #[test]
    fn all_ranks_come_to_one_end() {
        let end = |outcome: fn(usize) -> Result<(), Error>| {
            let ends = Threads::run(4, |ranks| {
                agree(&*ranks, outcome(ranks.rank())).map_err(|e| e.to_string())
            });
            assert!(ends.windows(2).all(|pair| pair[0].is_ok() == pair[1].is_ok()), "{ends:?}");
            ends
        };
        assert!(end(|_| Ok(())).iter().all(Result::is_ok));
        let stopped = |rank| if rank > 1 { Err(Error::Stopped) } else { Ok(()) };
        assert!(end(stopped).iter().all(|end| *end == Err("stopped".into())));
        let broken = end(|rank| if rank == 2 { Err(non_finite()) } else { Ok(()) });
        assert!(broken.iter().all(|end| *end == Err(non_finite().to_string())), "{broken:?}");
        // What counts most, whichever rank has it.
        let mixed = end(|rank| match rank {
            0 => Err(non_finite()),
            1 => Err(Error::Stopped),
            3 => Err(Error::input("batch", "nothing to learn")),
            _ => Ok(()),
        });
        assert_eq!(mixed[3], Err("batch: nothing to learn".into()));
        assert!(mixed[..3].iter().all(|end| *end == Err("rank 3: batch: nothing to learn".into())));
    }

    #[test]
    fn numbers_arrive_bit_for_bit_or_not_at_all() {
        let all = Threads::run(3, |ranks| {
            let mine = vec![f64::NAN, ranks.rank() as f64 / 3.0][ranks.rank() % 2..].to_vec();
            let bits =
                |all: Vec<Vec<f64>>| all.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            bits(agree_numbers(&*ranks, Ok(mine)).unwrap())
        });
        let expected = [f64::NAN, 0.0, 1.0 / 3.0, f64::NAN, 2.0 / 3.0].map(f64::to_bits);
        assert!(all.iter().all(|bits| bits[..] == expected));
        let ends = Threads::run(3, |ranks| {
            let mine = if ranks.rank() == 1 { Err(Error::Stopped) } else { Ok(vec![1.0]) };
            matches!(agree_numbers(&*ranks, mine), Err(Error::Stopped))
        });
        assert_eq!(ends, [true; 3]);
    }
}
