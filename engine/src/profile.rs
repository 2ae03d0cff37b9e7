//! [`Profile`]: where the time of training steps goes.

use std::time::Instant;

/// What a part of a step does with an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Computes its output.
    Forward,
    /// Propagates gradients.
    Backward,
    /// Neither: work on parameters and gradients between the passes.
    Update,
}

/// One part of a step, summed over all times it ran.
#[derive(Clone, Copy, Debug)]
pub struct ProfilePart {
    /// Name of the operator, or of the work.
    pub name: &'static str,
    /// What was done with it.
    pub pass: Pass,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Floating-point operations, by the operator's own [`Cost`](crate::Cost).
    pub flops: u64,
}

/// Seconds and FLOPs by part, in the order in which parts first ran. Off, it costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    on: bool,
    parts: Vec<ProfilePart>,
}

impl Profile {
    /// Forgets what was measured, and measures from now on.
    pub fn start(&mut self) {
        *self = Self { on: true, parts: Vec::new() };
    }

    /// What was measured since [`Profile::start`].
    pub fn parts(&self) -> &[ProfilePart] {
        &self.parts
    }

    /// The beginning of a part; nothing if nobody measures.
    pub fn clock(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// The end of a part that began at `clock`.
    pub fn record(
        &mut self,
        clock: Option<Instant>,
        name: &'static str,
        pass: Pass,
        flops: impl FnOnce() -> u64,
    ) {
        let Some(clock) = clock else { return };
        let seconds = clock.elapsed().as_secs_f64();
        let flops = flops();
        match self.parts.iter_mut().find(|part| part.name == name && part.pass == pass) {
            Some(part) => {
                part.seconds += seconds;
                part.flops += flops;
            }
            None => self.parts.push(ProfilePart { name, pass, seconds, flops }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_nothing_is_kept_while_off() {
        let mut profile = Profile::default();
        profile.record(profile.clock(), "gelu", Pass::Forward, || 1);
        assert!(profile.parts().is_empty());
        profile.start();
        for (pass, flops) in [(Pass::Forward, 2), (Pass::Backward, 3), (Pass::Forward, 4)] {
            profile.record(profile.clock(), "gelu", pass, || flops);
        }
        let found: Vec<_> = profile.parts().iter().map(|part| (part.pass, part.flops)).collect();
        assert_eq!(found, [(Pass::Forward, 6), (Pass::Backward, 3)]);
        assert!(profile.parts().iter().all(|part| part.seconds >= 0.0));
        profile.start();
        assert!(profile.parts().is_empty());
    }
}
