//! Everything the engine writes, in one place: what a crash or a power cut leaves is decided here; and
//! how a file is opened to be read.
//!
//! | what | is | is used for |
//! |---|---|---|
//! | [`write()`], [`write_with`], [`Draft`] | a file that has its name once it is whole | reports, settings, shards, exports |
//! | [`publish_all`] | several of them | pictures |
//! | [`write_folder`], [`put_folder`] | a folder likewise, exchanged with the one it replaces | datasets, exports, imported runs |
//! | [`NewFile`] and the steps below it | what the others are made of | checkpoints, whose order is their own |
//! | [`Log`] | a file that grows | metrics, events, downloads |
//! | [`Lock`] | a file that one process holds | run folders, datasets under way |
//! | [`ScratchFolder`] | a folder for what is not kept | |
//! | [`open`], [`read`], [`read_text`] | regular files, bounded | all that is read |
//! | [`brief`] | a short line | what was found, in errors |
//!
//! **A file or a folder is made aside**, under the name `.NAME.partial-PID` in the same folder,
//! waited for until it is on the disk, and then given its name in one step; the name is waited for
//! as well. So a name has the old content or the new one at every instant, through power cuts too.
//!
//! **Who makes something aside holds a lock on it.** What nobody holds was left by a process that is
//! gone: whoever next writes that name ([`clear_beside`]), or starts in that folder ([`clear`]), removes it. So no number of
//! a process is asked about that may be another's by now, or another machine's. Where folders
//! cannot be locked, on other systems than Unix, theirs stay until somebody removes them.
//!
//! **Each step is one function** (`steps`), so none hides in a call that does several. In tests, with
//! the feature `faults`, each can be made the last one or fail, and the disk can be asked for what a
//! power cut would leave there.

mod aside;
mod brief;
mod error;
#[cfg(feature = "faults")]
pub mod faults;
mod lock;
mod log;
mod reading;
mod step;
mod steps;

pub use aside::{
    Draft, ScratchFolder, clear, clear_beside, is_leftover, publish_all, put_folder, write,
    write_folder, write_with,
};
pub use brief::brief;
pub use error::Error;
pub use lock::Lock;
pub use log::{Log, whole_lines};
pub use reading::{LARGE, NotUtf8, SMALL, open, read, read_text, text, without_mark};
pub use steps::{NewFile, create_folder, create_folders, remove, rename, sync_folder};
