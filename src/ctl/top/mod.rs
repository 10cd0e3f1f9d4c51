//! `ctl top`: a live view. `view` is what is known, `screen` draws it, here both meet a terminal.
//!
//! Three threads, so that neither a process that hangs nor a signal keeps the keys waiting: one looks, one waits for a signal,
//! this one reads keys and draws.

pub mod screen;
pub mod view;

use super::client::{self, Client};
use crate::admin::status::Status;
use crate::error::Failure;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
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
    /// A signal ends it.
    End,
}

/// Looks once an interval and draws, until `q`, Ctrl-C or a signal.
///
/// # Errors
/// There is no terminal, or nobody to look at.
pub fn run(client: Client, interval: Duration) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err("`top` draws on a terminal, and standard output is none; see `oneip ctl status` and `stats`".into());
    }
    let first = look(&client)?;
    let view = View::new(*first, Instant::now());
    let (tell, told) = bounded(4);
    thread::Builder::new().name("oneip-top-look".into()).spawn({
        let tell = tell.clone();
        move || keep_looking(&client, interval, &tell)
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
    let ended = watch(&mut terminal, view, &told);
    ratatui::try_restore()?;
    ended
}

fn look(client: &Client) -> Result<Box<Status>, client::Error> {
    client::read(client.status()?)
}

fn keep_looking(client: &Client, interval: Duration, tell: &Sender<Told>) {
    let mut due = Instant::now();
    loop {
        due = (due + interval).max(Instant::now());
        thread::sleep(due - Instant::now());
        let look = look(client).map_err(|error| error.to_string());
        if tell.send(Told::Look(look, Instant::now())).is_err() {
            return;
        }
    }
}

fn watch(terminal: &mut DefaultTerminal, mut view: View, told: &Receiver<Told>) -> Result<(), Failure> {
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
                None => {}
            }
        }
        loop {
            match told.try_recv() {
                Ok(Told::Look(look, at)) => view.look(look.map(|status| *status), at),
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
        KeyCode::Up | KeyCode::Char('k') => Command::Scroll(view::Way::Line(-1)),
        KeyCode::Down | KeyCode::Char('j') => Command::Scroll(view::Way::Line(1)),
        KeyCode::PageUp => Command::Scroll(view::Way::Page(-1)),
        KeyCode::PageDown => Command::Scroll(view::Way::Page(1)),
        KeyCode::Home | KeyCode::Char('g') => Command::Scroll(view::Way::Top),
        KeyCode::End | KeyCode::Char('G') => Command::Scroll(view::Way::Bottom),
        _ => return None,
    })
}
