//! Binding: whose socket it is, who may connect, and what is left behind.

use crate::fake::Fake;
use crate::http;
use oneip::admin::{self, Error, Listeners};
use oneip::model::Admin;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

fn plan(socket: &Path, socket_given: bool) -> Admin {
    Admin { socket: socket.to_owned(), socket_given, metrics: None, web: None, state: "state.json".into() }
}

fn refused(bound: Result<Listeners, Error>) -> String {
    bound.expect_err("it is refused").to_string()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_socket_and_its_directory_are_made_for_owner_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/oneip/oneip.sock");
    let listeners = admin::bind(&plan(&path, true)).unwrap();
    assert_eq!(listeners.socket(), Some(path.as_path()));
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o755));
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(listeners);
    assert!(!path.exists(), "what was bound is removed, started or not");
    assert!(path.parent().unwrap().exists());
}

#[test]
fn an_existing_directory_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let _listeners = admin::bind(&plan(&folder.path().join("s.sock"), true)).unwrap();
    assert_eq!(mode(folder.path()), 0o750);
}

#[test]
fn the_file_goes_with_the_server_and_a_successors_stays() {
    let fake = Fake::start();
    assert_eq!(http::unix(&fake.socket, "GET", "/healthz", "").status, 200);
    let path = fake.socket.clone();
    drop(fake.server);
    assert!(!path.exists());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let first = admin::bind(&plan(&path, true)).unwrap();
    fs::remove_file(&path).unwrap();
    let second = admin::bind(&plan(&path, true)).unwrap();
    drop(first);
    assert!(path.exists(), "it is the second's");
    drop(second);
}

#[test]
fn a_dead_processs_socket_is_replaced_and_a_living_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as a killed process leaves it");
    let listeners = admin::bind(&plan(&path, true)).unwrap();

    let said = refused(admin::bind(&plan(&path, true)));
    let expected = format!(
        "the admin socket {} is in use by process {}; stop it, or set another `socket` in [admin]",
        path.display(),
        std::process::id()
    );
    assert_eq!(said, expected);
    // The default's is the first's: no reason not to dispatch.
    assert_eq!(admin::bind(&plan(&path, false)).unwrap().socket(), None);
    assert!(path.exists());
    drop(listeners);
}

#[test]
fn a_process_that_is_about_to_end_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    // As a killed process does: it accepts without answering until the kernel has come to its files.
    let ending = UnixListener::bind(&path).unwrap();
    let ended = thread::spawn(move || {
        let (waiting, _) = ending.accept().unwrap();
        drop(ending);
        drop(waiting);
    });
    let listeners = admin::bind(&plan(&path, true)).expect("the socket is free by then");
    assert_eq!(listeners.socket(), Some(path.as_path()));
    ended.join().unwrap();
}

#[test]
fn a_living_process_is_told_by_its_answer() {
    let fake = Fake::start();
    let said = refused(admin::bind(&plan(&fake.socket, true)));
    assert!(said.contains(&format!("is in use by process {}; stop it", std::process::id())), "{said}");
    assert_eq!(http::unix(&fake.socket, "GET", "/healthz", "").status, 200);
}

#[test]
fn a_process_that_hangs_with_a_full_queue_is_alive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let said = refused(admin::bind(&plan(&path, true)));
    assert!(said.contains("is in use by a process that hangs; stop it"), "{said}");
    drop(waiting);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link, path) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("directory"));
    fs::write(&file, "precious").unwrap();
    symlink(&file, &link).unwrap();
    fs::create_dir(&path).unwrap();
    for path in [&file, &link, &path] {
        let said = refused(admin::bind(&plan(path, true)));
        let expected = format!(
            "the admin socket {} cannot be created: a file that is not a socket has this path; remove it, or set \
             another `socket` in [admin]",
            path.display()
        );
        assert_eq!(said, expected);
        assert_eq!(admin::bind(&plan(path, false)).unwrap().socket(), None);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_directory_that_cannot_be_made_refuses_only_a_socket_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/oneip.sock");
    let said = refused(admin::bind(&plan(&path, true)));
    assert!(said.starts_with(&format!("the admin socket {} cannot be created: ", path.display())), "{said}");
    assert!(said.ends_with("; fix that, or set another `socket` in [admin]"), "{said}");
    assert_eq!(admin::bind(&plan(&path, false)).unwrap().socket(), None);
}

#[test]
fn of_many_that_start_at_once_one_gets_a_dead_processs_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    for _ in 0..4 {
        drop(UnixListener::bind(&path).unwrap());
        let start = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (start, plan) = (Arc::clone(&start), plan(&path, true));
                thread::spawn(move || {
                    start.wait();
                    admin::bind(&plan)
                })
            })
            .collect();
        let bound: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1, "{bound:?}");
        assert!(path.exists());
    }
}

#[test]
fn an_address_that_is_taken_refuses_the_start_and_leaves_no_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let said = refused(admin::bind(&Admin { metrics: Some(address), ..plan(&path, true) }));
    let expected = format!(
        "metrics cannot be served on {address}: Address already in use (os error 98); fix that, or set another address \
         as `metrics` in [admin]"
    );
    assert_eq!(said, expected);
    assert!(!path.exists());
    let said = refused(admin::bind(&Admin { web: Some(address), ..plan(&path, true) }));
    let expected = format!(
        "the page cannot be served on {address}: Address already in use (os error 98); fix that, or set another \
         address as `web` in [admin]"
    );
    assert_eq!(said, expected);
    assert!(!path.exists());
}
