//! After any fault the old content is whole at its name or the new one, and the next start clears up.

use super::*;
use crate::faults::{self, Recording, Step};
use std::collections::BTreeMap;

/// Names in a folder, with the content of files.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = list(folder).unwrap().into_iter().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let content = if path.is_dir() { b"folder".to_vec() } else { fs::read(&path).unwrap() };
        (name, content)
    });
    entries.collect()
}

fn files(names: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect()
}

fn folder_of(path: &Path, text: &str) -> Result<(), Error> {
    write_folder(path, |folder| {
        create_folders(&folder.join("below"))?;
        write(&folder.join("below/text"), text.as_bytes())?;
        write(&folder.join(text), text.as_bytes())
    })
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_litter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    write(&path, b"old").unwrap();
    let failed = write_with(&path, |file| {
        file.write_all(b"half of the ne").unwrap();
        Err::<(), _>(Error::of("think", &path)(io::Error::other("no")))
    });
    assert_eq!(failed.unwrap_err().action, "think");
    assert_eq!(content(folder.path()), files(&[("file", "old")]));
    write(&path, b"new").unwrap();
    assert_eq!(content(folder.path()), files(&[("file", "new")]));
    let missing = write(&folder.path().join("missing/file"), b"").unwrap_err().to_string();
    assert!(missing.ends_with("missing/file: cannot create"), "{missing}");
}

#[test]
fn a_folder_is_the_old_one_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("above/folder");
    folder_of(&path, "old").unwrap();
    let failed = write_folder(&path, |folder| {
        write(&folder.join("new"), b"new")?;
        Err::<(), _>(Error::of("think", &path)(io::Error::other("no")))
    });
    assert!(failed.is_err());
    assert!(path.join("old").exists());
    folder_of(&path, "new").unwrap();
    assert_eq!(content(&path), files(&[("below", "folder"), ("new", "new")]));
    assert_eq!(content(path.parent().unwrap()), files(&[("folder", "folder")]));
    assert!(write_folder(Path::new(".."), |_| Ok::<_, Error>(())).is_err());
}

#[test]
fn a_file_is_whole_whatever_stops_its_writing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    for (before, after) in [(None, "old"), (Some("old"), "new one")] {
        let ((), recording) =
            Recording::of(&root, || write(&root.join("file"), after.as_bytes()).unwrap());
        let last = recording.steps().len();
        assert_eq!(last, 5, "create, write, sync, rename, sync: {:?}", recording.steps());
        let mut seen = [0, 0];
        recording.each_state(folder.path(), 16, |state| {
            let path = state.folder.join("file");
            let found = fs::read_to_string(&path).ok();
            let is_new = found.as_deref() == Some(after);
            assert!(is_new || found.as_deref() == before, "{:?}: {found:?}", state.done);
            assert!(is_new || state.done.len() < last);
            seen[usize::from(is_new)] += 1;
            write(&path, b"newest").unwrap();
            assert_eq!(content(state.folder), files(&[("file", "newest")]), "{:?}", state.done);
        });
        assert!(seen[0] > 4 * 17 && seen[1] > 17, "{seen:?}");
    }
}

#[test]
fn a_folder_is_whole_whatever_stops_its_writing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    for (before, after) in [(None, "old"), (Some("old"), "new")] {
        let ((), recording) =
            Recording::of(&root, || folder_of(&root.join("folder"), after).unwrap());
        let last = recording.steps().len();
        recording.each_state(folder.path(), 4, |state| {
            let path = state.folder.join("folder");
            let text = fs::read_to_string(path.join("below/text")).ok();
            assert!(text.is_some() || !path.exists(), "{:?}", state.done);
            let expected = |text: &str| files(&[("below", "folder"), (text, text)]);
            if let Some(text) = &text {
                assert_eq!(content(&path), expected(text), "{:?}", state.done);
            }
            let is_new = text.as_deref() == Some(after);
            assert!(is_new || text.as_deref() == before, "{:?}: {text:?}", state.done);
            assert!(is_new || state.done.len() < last);
            folder_of(&path, "newest").unwrap();
            assert_eq!(content(&path), expected("newest"));
            assert_eq!(content(state.folder), files(&[("folder", "folder")]), "{:?}", state.done);
        });
        let exchanges =
            recording.steps().iter().filter(|step| matches!(step, Step::Exchange(..))).count();
        assert_eq!(exchanges, usize::from(before.is_some() && cfg!(target_os = "linux")));
    }
}

#[test]
fn a_step_that_fails_leaves_all_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(&root.join("file"), b"old").unwrap();
    folder_of(&root.join("folder"), "old").unwrap();
    let before = content(root);
    let (mut failures, mut named) = (0, 0);
    loop {
        let work = || {
            folder_of(&root.join("folder"), "new")?;
            write(&root.join("file"), b"new")
        };
        let (done, has_failed) = faults::fail(root, failures, work);
        if !has_failed {
            assert!(done.is_ok());
            break;
        }
        failures += 1;
        // Only one step is refused: what follows may clear up.
        let found = content(root);
        let litter = found.keys().filter(|name| name.starts_with('.')).count();
        assert_eq!(litter, 0, "after {failures}: {found:?}, {done:?}");
        named += usize::from(root.join("folder/new").exists());
        if named == 0 {
            assert_eq!(found, before, "after {failures}");
            assert!(root.join("folder/old").exists() && done.is_err());
        }
    }
    assert!(failures > 20 && named > 0, "{failures}, {named}");
}

#[test]
fn files_that_belong_together_are_all_there_or_none_unless_stopped_between_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let both = |root: &Path| {
        let names = ["a", "b"];
        let drafts = names.map(|name| {
            let mut draft = Draft::create(&root.join(name))?;
            draft.write_all(name.as_bytes()).map_err(Error::of("write", &root.join(name)))?;
            Ok(draft)
        });
        let [a, b] = drafts;
        publish_all([a?, b?])
    };
    let (done, recording) = Recording::of(&root, || both(&root));
    done.unwrap();
    let whole = files(&[("a", "a"), ("b", "b")]);
    recording.each_state(folder.path(), 4, |state| {
        for (name, found) in content(state.folder) {
            assert!(name.starts_with('.') || whole[&name] == found, "{:?}", state.done);
        }
        both(state.folder).unwrap();
        assert_eq!(content(state.folder), whole, "{:?}", state.done);
    });
    let mut failures = 0;
    loop {
        let names = ["a", "b"].map(|name| remove(&root.join(name)));
        names.into_iter().for_each(Result::unwrap);
        let (done, has_failed) = faults::fail(&root, failures, || both(&root));
        if !has_failed {
            break;
        }
        let found = content(&root);
        assert!(done.is_err() && found.keys().all(|name| !name.starts_with('.')), "{found:?}");
        // What may be refused for want of room comes before the first name.
        assert!(failures >= 6 || found.is_empty(), "{failures}: {found:?}");
        failures += 1;
    }
    assert_eq!(failures, 9, "two creations, writes, syncs and names, and a sync of the folder");
}

#[test]
fn what_is_held_is_no_litter_and_what_was_put_aside_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut draft = Draft::create(&at("draft")).unwrap();
    let scratch = ScratchFolder::beside(&at("scratch")).unwrap();
    draft.write_all(b"kept").unwrap();
    // Of processes that are gone; the last of one that could not exchange.
    for name in
        [".draft.partial-1", ".a.b.partial-23", ".put.old.partial-1", ".aside.old.partial-1"]
    {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir_all(at(".c.partial-9/below")).unwrap();
    fs::write(at("put"), "new").unwrap();
    let foreign = [".partial-x", ".d.partial-", "e.partial-1", ".hidden"];
    foreign.iter().for_each(|name| fs::write(at(name), name).unwrap());
    clear(folder.path()).unwrap();
    assert!(scratch.path().exists());
    draft.publish().unwrap();
    drop(scratch);
    let mut expected = files(&foreign.map(|name| (name, name)));
    expected.extend(files(&[("draft", "kept"), ("put", "new")]));
    expected.extend(files(&[("aside", ".aside.old.partial-1")]));
    assert_eq!(content(folder.path()), expected);
}

#[cfg(unix)]
#[test]
fn a_device_is_written_to_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let null = folder.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    write(&null, b"nothing").unwrap();
    assert!(null.symlink_metadata().unwrap().is_symlink());
}
