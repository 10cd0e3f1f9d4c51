//! Whom the server asks: the control thread for how things are and to have orders carried out, the stats thread for what was
//! counted.

use super::figures;
use super::order::{Answer, Order};
use super::status::Status;
use crate::limits::{FIGURES_MOST, ORDER_MOST};
use crate::stats::figures::Figures;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// An order, and where its answer goes. Where that `is_closed`, nobody waits for it any more, and it is better not carried out.
pub type Asked = (Order, oneshot::Sender<Answer>);

/// Where the figures go that were asked for.
pub type Wanted = oneshot::Sender<Figures>;

/// The server's end.
#[derive(Clone)]
pub struct Backend {
    orders: mpsc::Sender<Asked>,
    figures: Arc<dyn Fn(Wanted) + Send + Sync>,
    started: Arc<OnceLock<SystemTime>>,
}

/// The ends of the server and of the control thread. `figures` has the stats thread give its figures, without waiting. An
/// order waits in the channel until the one before it was carried out; others wait outside of it, so that who gives up there
/// knows that nothing was done.
pub fn channel(figures: impl Fn(Wanted) + Send + Sync + 'static) -> (Backend, mpsc::Receiver<Asked>) {
    let (orders, asked) = mpsc::channel(1);
    (Backend { orders, figures: Arc::new(figures), started: Arc::default() }, asked)
}

/// Everything, as of one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub status: Status,
    pub figures: Figures,
    /// When `status.uptime_s` was 0: the same in every snapshot, as a difference of two clocks' readings would not be.
    pub started: SystemTime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error(
        "the control thread is busy: it has not taken the order within {ORDER_MOST:?}, and nothing was done; try again"
    )]
    Busy,
    #[error(
        "the control thread has not answered within {0:?}; what was ordered may be carried out yet: see `oneip ctl status`"
    )]
    Silent(Duration),
    #[error("the thread that was asked has ended: this process is about to stop")]
    Ended,
    #[error("the stats thread has not given its figures within {FIGURES_MOST:?}")]
    NoFigures,
    #[error("{0}")]
    Refused(String),
}

impl Backend {
    /// Has an order carried out. A status comes with its figures.
    pub async fn order(&self, order: Order) -> Result<Answer, Unanswered> {
        match self.ask(order).await? {
            Answer::Status(mut status) => {
                figures::fill(&mut status, &self.figures().await?);
                Ok(Answer::Status(status))
            }
            answer => Ok(answer),
        }
    }

    /// How things are, and what was counted up to a moment later, which the status has as well.
    pub async fn status(&self) -> Result<Snapshot, Unanswered> {
        match self.ask(Order::Status).await? {
            Answer::Status(mut status) => {
                let uptime = Duration::try_from_secs_f64(status.uptime_s).unwrap_or_default();
                let started = *self.started.get_or_init(|| SystemTime::now() - uptime);
                let figures = self.figures().await?;
                figures::fill(&mut status, &figures);
                Ok(Snapshot { status: *status, figures, started })
            }
            Answer::Refused { error } => Err(Unanswered::Refused(error)),
            other => Err(Unanswered::Refused(format!("the control thread has no status, it answers {other:?}"))),
        }
    }

    async fn ask(&self, order: Order) -> Result<Answer, Unanswered> {
        let most = ORDER_MOST + watched(&order);
        let (taken, answered) = (Instant::now() + ORDER_MOST, Instant::now() + most);
        let place = timeout_at(taken, self.orders.reserve()).await.map_err(|_| Unanswered::Busy)?;
        let (answer, wait) = oneshot::channel();
        place.map_err(|_| Unanswered::Ended)?.send((order, answer));
        match timeout_at(answered, wait).await {
            Ok(answer) => answer.map_err(|_| Unanswered::Ended),
            Err(_) => Err(Unanswered::Silent(most)),
        }
    }

    pub async fn figures(&self) -> Result<Figures, Unanswered> {
        let (answer, wait) = oneshot::channel();
        (self.figures)(answer);
        match timeout_at(Instant::now() + FIGURES_MOST, wait).await {
            Ok(figures) => figures.map_err(|_| Unanswered::Ended),
            Err(_) => Err(Unanswered::NoFigures),
        }
    }
}

/// How long the order asks to be waited for.
fn watched(order: &Order) -> Duration {
    match order {
        Order::Trace { watch_ms, .. } => Duration::from_millis(*watch_ms),
        _ => Duration::ZERO,
    }
}
