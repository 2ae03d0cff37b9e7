//! Pre-training: steps until none is left, evaluated, saved and stopped on the way.

use crate::error::Error;
use crate::run::TrainingReport;
use crate::session::{Advance, Session};
use crate::watch::{Progress, Watch};

/// Trains until all steps are done.
/// # Errors
/// [`Error::Stopped`] if `watch` asks to stop: the step under way is given up after its current
/// micro-batch, and the state before it is saved, from which [`Session::resume`] goes on. If a loss
/// or a gradient is not finite (the step made no update) and not to be skipped, or the folder cannot
/// be written.
pub fn pretrain(session: &mut Session, watch: &mut dyn Watch) -> Result<TrainingReport, Error> {
    let ended = to_the_end(session, watch);
    if let Err(Error::Stopped) = ended {
        let checkpoint = session.save()?;
        // It is asked no more.
        let _ = watch.see(Progress::Saved { step: session.step(), checkpoint: &checkpoint });
    }
    ended
}

fn to_the_end(session: &mut Session, watch: &mut dyn Watch) -> Result<TrainingReport, Error> {
    let resumed = session.resumed().map_or(Ok(()), |resumed| watch.tell(resumed));
    let mut notes = session.notes().iter();
    session.agree(
        resumed.and_then(|()| notes.try_for_each(|note| watch.tell(Progress::Noted(note)))),
    )?;
    loop {
        if session.is_evaluation_due() {
            let validation = session.evaluate(watch)?;
            session.agree(watch.tell(Progress::Evaluated(&validation)))?;
        }
        if session.is_save_due() {
            let checkpoint = session.save()?;
            let step = session.step();
            session.agree(watch.tell(Progress::Saved { step, checkpoint: &checkpoint }))?;
        }
        let (metrics, problem) = match session.advance(watch)? {
            Advance::Stepped(metrics) => (metrics, None),
            Advance::Skipped(metrics, problem) => (metrics, Some(problem)),
            Advance::Stopped => return Err(Error::Stopped),
            Advance::Finished => return session.finish(),
        };
        let told = problem.map_or(Ok(()), |problem| watch.tell(Progress::Skipped(&problem)));
        let stepped = Progress::Stepped { metrics: &metrics, pace: session.pace() };
        session.agree(told.and_then(|()| watch.tell(stepped)))?;
    }
}
