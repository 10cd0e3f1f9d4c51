//! `ctl top`: a live view. `view` is what is known, `screen` draws it, here both meet a terminal.
//!
//! Three threads, so that neither a process that hangs nor a signal keeps the keys waiting: one looks, one waits for a signal,
//! this one reads keys and draws.

pub mod screen;
mod talkers;
pub mod view;

use super::client::{self, Client};
use crate::admin::order::Heaviest;
use crate::admin::status::Status;
use crate::error::Failure;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use view::View;

/// How long a look may lie about before it is drawn.
const BLINK: Duration = Duration::from_millis(50);

/// What the other threads tell.
enum Told {
    /// How things are, or why that is not known; and when that was.
    Look(Result<Box<Status>, String>, Instant),
    /// Who sends most.
    Talkers(Result<Heaviest, String>),
    /// A signal ends it.
    End,
}

/// Looks once an interval and draws, until `q`, Ctrl-C or a signal.
///
/// # Errors
/// There is no terminal, or nobody to look at.
pub fn run(client: Client, interval: Duration) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err("`top` needs a terminal, and standard output is not one; use `oneip ctl status` or `stats`".into());
    }
    let first = look(&client)?;
    let view = View::new(*first, Instant::now());
    let (tell, told) = bounded(4);
    let talkers = Arc::new(AtomicBool::new(false));
    thread::Builder::new().name("oneip-top-look".into()).spawn({
        let (tell, talkers) = (tell.clone(), Arc::clone(&talkers));
        move || keep_looking(&client, interval, &talkers, &tell)
    })?;
    // From here on a signal ends the loop below, and the terminal is given back.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("oneip-top-stop".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        let _ = tell.send(Told::End);
    })?;
    // A panic gives the terminal back too.
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, view, &talkers, &told);
    ratatui::try_restore()?;
    ended
}

fn look(client: &Client) -> Result<Box<Status>, client::Error> {
    client::read(client.status()?)
}

/// Who sends most is asked for while it is shown, and at no other time.
fn keep_looking(client: &Client, interval: Duration, talkers: &AtomicBool, tell: &Sender<Told>) {
    let mut due = Instant::now();
    loop {
        due = (due + interval).max(Instant::now());
        thread::sleep(due - Instant::now());
        let status = look(client).map_err(|error| error.to_string());
        let mut looks = vec![Told::Look(status, Instant::now())];
        if talkers.load(Ordering::Relaxed) {
            let talkers = client.talkers().and_then(client::read);
            looks.push(Told::Talkers(talkers.map_err(|error| error.to_string())));
        }
        if looks.into_iter().any(|look| tell.send(look).is_err()) {
            return;
        }
    }
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut view: View,
    talkers: &AtomicBool,
    told: &Receiver<Told>,
) -> Result<(), Failure> {
    let mut changed = true;
    loop {
        if changed {
            terminal.draw(|frame| screen::draw(frame, &mut view))?;
        }
        changed = event::poll(BLINK)?;
        if changed && let Event::Key(key) = event::read()? {
            match command(key) {
                Some(Command::Back) if view.help => view.help(),
                Some(Command::Quit | Command::Back) => return Ok(()),
                Some(Command::Help) => view.help(),
                Some(Command::Scroll(way)) => view.scroll(way),
                Some(Command::Pause) => view.pause(),
                Some(Command::Talkers) => {
                    view.talkers();
                    talkers.store(view.talkers, Ordering::Relaxed);
                }
                None => {}
            }
        }
        loop {
            match told.try_recv() {
                Ok(Told::Look(look, at)) => view.look(look.map(|status| *status), at),
                Ok(Told::Talkers(look)) => view.look_at_talkers(look),
                Ok(Told::End) => return Ok(()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err("the threads that look have ended".into()),
            }
            changed = true;
        }
    }
}

enum Command {
    Quit,
    /// To the list, or out.
    Back,
    Help,
    Scroll(view::Way),
    Pause,
    /// Who sends most, or the servers.
    Talkers,
}

fn command(KeyEvent { code, modifiers, kind, .. }: KeyEvent) -> Option<Command> {
    if kind == KeyEventKind::Release {
        return None;
    }
    // In raw mode Ctrl-C is a key like another.
    if modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(code, KeyCode::Char('c' | 'd')).then_some(Command::Quit);
    }
    Some(match code {
        KeyCode::Char('q') => Command::Quit,
        KeyCode::Esc => Command::Back,
        KeyCode::Char('?' | 'h') => Command::Help,
        KeyCode::Char('p' | ' ') => Command::Pause,
        KeyCode::Char('t') => Command::Talkers,
        KeyCode::Up | KeyCode::Char('k') => Command::Scroll(view::Way::Line(-1)),
        KeyCode::Down | KeyCode::Char('j') => Command::Scroll(view::Way::Line(1)),
        KeyCode::PageUp => Command::Scroll(view::Way::Page(-1)),
        KeyCode::PageDown => Command::Scroll(view::Way::Page(1)),
        KeyCode::Home | KeyCode::Char('g') => Command::Scroll(view::Way::Top),
        KeyCode::End | KeyCode::Char('G') => Command::Scroll(view::Way::Bottom),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Command, command};
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

    #[test]
    fn a_question_mark_shows_help_and_escape_leaves_it() {
        let of = |code| command(KeyEvent::new(code, KeyModifiers::NONE));
        assert!(matches!(of(KeyCode::Char('?')), Some(Command::Help)));
        // Keyboards on which it takes Shift say so.
        assert!(matches!(command(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::SHIFT)), Some(Command::Help)));
        assert!(matches!(of(KeyCode::Esc), Some(Command::Back)));
        assert!(matches!(of(KeyCode::Char('q')), Some(Command::Quit)));
        assert!(of(KeyCode::Char('x')).is_none());
        let released = KeyEvent::new_with_kind(KeyCode::Char('?'), KeyModifiers::NONE, KeyEventKind::Release);
        assert!(command(released).is_none(), "where a terminal tells, it would be pressed twice");
        let control = KeyEvent::new(KeyCode::Char('?'), KeyModifiers::CONTROL);
        assert!(command(control).is_none());
    }
}
