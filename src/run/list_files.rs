//! Files of denied and allowed prefixes are read again when they change. A thread of its own looks at them: a file may hang.

use crate::admin::order::ListStatus;
use crate::config;
use crate::limits::LIST_LOOK;
use crate::model::{ListKind, Plan, Prefix};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// What is in a file now, or what is wrong with it.
pub type Content = (PathBuf, Result<Arc<[Prefix]>, String>);

/// The control thread's end.
#[derive(Default)]
pub struct ListFiles {
    watched: Vec<PathBuf>,
    thread: Option<(Sender<Vec<PathBuf>>, mpsc::UnboundedReceiver<Content>)>,
    /// By file, what is wrong with its present content.
    wrong: BTreeMap<PathBuf, String>,
}

impl ListFiles {
    /// Watches the files of a plan, and no others any more.
    pub fn watch(&mut self, plan: &Plan) {
        let mut files: Vec<PathBuf> =
            plan.lists.iter().flat_map(|list| &list.files).map(|file| file.path.clone()).collect();
        files.sort_unstable();
        files.dedup();
        if files == self.watched {
            return;
        }
        self.wrong.retain(|file, _| files.contains(file));
        self.watched.clone_from(&files);
        if self.thread.is_none() {
            self.thread = start();
        }
        if let Some((to, _)) = &self.thread {
            let _ = to.send(files);
        }
    }

    /// Waits until a file has another content. Cancel-safe.
    pub async fn changed(&mut self) -> Content {
        let content = match &mut self.thread {
            Some((_, from)) => from.recv().await,
            None => None,
        };
        match content {
            Some(content) => content,
            None => pending().await,
        }
    }

    /// Notes what came of a content, and tells it.
    pub fn tell(&mut self, path: &Path, outcome: Result<Option<String>, String>) {
        match outcome {
            Ok(said) => {
                self.wrong.remove(path);
                said.iter().for_each(|said| tracing::info!("list: {said}"));
            }
            Err(error) => {
                tracing::warn!("list: {}: nothing was changed: {error}", path.display());
                self.wrong.insert(path.to_owned(), error);
            }
        }
    }

    /// The lists of a plan, as an operator is shown them.
    pub fn shown(&self, plan: &Plan) -> Vec<ListStatus> {
        let lists = plan.lists.iter().map(|list| ListStatus {
            kind: match list.kind {
                ListKind::Deny => "deny",
                ListKind::Count => "count",
                ListKind::Allow => "allow",
            }
            .to_owned(),
            services: list.services.clone(),
            prefixes: list.all().count(),
            files: list.files.iter().map(|file| file.path.clone()).collect(),
            wrong: list.files.iter().filter_map(|file| self.wrong.get(&file.path).cloned()).collect(),
        });
        lists.collect()
    }
}

fn start() -> Option<(Sender<Vec<PathBuf>>, mpsc::UnboundedReceiver<Content>)> {
    let ((to, inbox), (changed, from)) = (channel(), mpsc::unbounded_channel());
    let thread = thread::Builder::new().name("oneip-lists".into());
    match thread.spawn(move || look(&inbox, &changed, LIST_LOOK)) {
        Ok(_) => Some((to, from)),
        Err(error) => {
            tracing::warn!("files of prefixes are read at a reload only: there is no thread to watch them: {error}");
            None
        }
    }
}

/// What tells that a file is another: device, inode, length, and when it was changed. `None`: it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let facts = fs::metadata(path).ok()?;
    Some((facts.dev(), facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec()))
}

/// What is known of a file: how it looked last, and how it did when it was read.
#[derive(Default)]
struct Known {
    seen: Option<Stamp>,
    read: Option<Stamp>,
}

/// Reads each file that looks as it did at the look before, but not as it did when it was read: one that is being written is
/// left alone.
fn look(inbox: &Receiver<Vec<PathBuf>>, changed: &mpsc::UnboundedSender<Content>, every: Duration) {
    let mut known: HashMap<PathBuf, Known> = HashMap::new();
    loop {
        match inbox.recv_timeout(every) {
            Ok(files) => {
                known.retain(|file, _| files.contains(file));
                files.into_iter().for_each(|file| _ = known.entry(file).or_default());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (path, known) in &mut known {
            let now = Some(stamp(path));
            if std::mem::replace(&mut known.seen, now) != now || known.read == now {
                continue;
            }
            let content = config::list_file(path).map_err(|errors| errors.to_string());
            if Some(stamp(path)) == now {
                known.read = now;
                if changed.send((path.clone(), content)).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_when_it_has_changed_and_said_to_be_wrong_with_its_line() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("deny.txt");
        fs::write(&file, "# the net\n198.51.100.0/24 # remark\n\n2001:db8::7\n").expect("written");
        let ((to, inbox), (changed, mut from)) = (channel(), mpsc::unbounded_channel());
        let thread = thread::spawn(move || look(&inbox, &changed, Duration::from_millis(5)));
        to.send(vec![file.clone()]).expect("it lives");
        let said = |(path, content): Content| {
            assert_eq!(path, file);
            content.map(|prefixes| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let mut next = || said(from.blocking_recv().expect("it lives"));
        assert_eq!(next().as_deref(), Ok("198.51.100.0/24 2001:db8::7"));
        fs::write(&file, "198.51.100.0/24\n198.51.100.7/24\n").expect("written");
        let wrong = next().expect_err("a broken file");
        let path = file.display();
        assert_eq!(wrong, format!("{path}:2:1: \"198.51.100.7/24\" has host bits set; write \"198.51.100.0/24\""));
        let other = folder.path().join("other");
        fs::write(&other, "203.0.113.9\n").expect("written");
        fs::rename(&other, &file).expect("renamed");
        assert_eq!(next().as_deref(), Ok("203.0.113.9"));
        fs::remove_file(&file).expect("it was there");
        assert!(next().expect_err("it is gone").contains("cannot be read"));
        drop(to);
        thread.join().expect("it ends");
    }
}
