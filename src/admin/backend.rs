//! Where the server has its answers from: the control thread carries out orders; what is only looked at was put down.

use super::heaviest::Looks;
use super::order::{Answer, Order};
use super::overview::Overview;
use super::status::Status;
use super::timeline::Timeline;
use super::{figures, prometheus};
use crate::limits::{FIGURES_MOST, ORDER_MOST, OVERVIEW_MOST};
use crate::metrics::latest::Latest;
use crate::metrics::snapshot::Snapshot;
use hyper::body::Bytes;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

/// An order, and where its answer goes. Where that `is_closed`, nobody waits for it any more, and it is better not carried out.
pub type Asked = (Order, oneshot::Sender<Answer>);

/// Where the figures go that were asked for.
pub type Wanted = oneshot::Sender<Snapshot>;

/// Where everything is that is only looked at.
pub struct Watched {
    pub overview: Latest<Overview>,
    /// What was counted, and how old that is. Waits for no thread. `None`: nothing yet.
    pub figures: Box<dyn Fn() -> Option<(Arc<Snapshot>, Duration)> + Send + Sync>,
    /// What the control thread has noted.
    pub timeline: Timeline,
}

/// The server's end.
#[derive(Clone)]
pub struct Backend {
    orders: mpsc::Sender<Asked>,
    figures: Arc<dyn Fn(Wanted) + Send + Sync>,
    watched: Arc<Watched>,
    page: Arc<Mutex<Option<Page>>>,
    started: Arc<OnceLock<SystemTime>>,
    pub(super) looks: Looks,
}

/// The metrics of an overview, ready to be sent: a flood of scrapes has it made once.
struct Page {
    of: Arc<Overview>,
    text: Bytes,
}

/// The ends of the server and of the control thread. `figures` has the stats thread give its figures of this moment, which come
/// with the status that is an order, without waiting. An order waits in the channel until the one before it was carried out; others wait outside of it, so that who gives up there
/// knows that nothing was done.
pub fn channel(watched: Watched, figures: impl Fn(Wanted) + Send + Sync + 'static) -> (Backend, mpsc::Receiver<Asked>) {
    let (orders, asked) = mpsc::channel(1);
    let (figures, watched) = (Arc::new(figures), Arc::new(watched));
    let backend =
        Backend { orders, figures, watched, page: Arc::default(), started: Arc::default(), looks: Looks::default() };
    (backend, asked)
}

/// Everything, as of one moment.
#[derive(Debug)]
pub struct Observation {
    pub status: Status,
    pub figures: Arc<Snapshot>,
    /// When `status.uptime_s` was 0: the same in every observation, as a difference of two clocks' readings would not be.
    pub started: SystemTime,
}

/// What was put down last.
pub struct Observed {
    pub overview: Arc<Overview>,
    pub overview_age: Duration,
    pub figures: Arc<Snapshot>,
    pub figures_age: Duration,
    pub started: SystemTime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error(
        "the control thread is busy: it did not accept the order within {ORDER_MOST:?}; nothing was done, try again"
    )]
    Busy,
    #[error(
        "the control thread did not answer within {0:?}; the order may still be carried out: see `oneip ctl status`"
    )]
    Silent(Duration),
    #[error("the thread that was asked has ended: this process is about to stop")]
    Ended,
    #[error("the stats thread did not deliver its counters within {FIGURES_MOST:?}")]
    NoFigures,
    #[error("the control thread has not reported the state of the servers yet")]
    NoOverview,
    #[error("the control thread hangs: it has not reported the state of the servers for {0:.1?}")]
    OldOverview(Duration),
    #[error("the stats thread hangs: it has not reported counters for {0:.1?}")]
    OldFigures(Duration),
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

    /// What the control thread has put down last.
    ///
    /// # Errors
    /// It has put down nothing for long: it hangs.
    pub async fn overview(&self) -> Result<Arc<Overview>, Unanswered> {
        let (overview, age) = put_down(|| self.watched.overview.get()).await.ok_or(Unanswered::NoOverview)?;
        if age > OVERVIEW_MOST { Err(Unanswered::OldOverview(age)) } else { Ok(overview) }
    }

    /// What was counted, and how old that is.
    ///
    /// # Errors
    /// The stats thread has put down nothing for long: it hangs.
    pub async fn counted(&self) -> Result<(Arc<Snapshot>, Duration), Unanswered> {
        let (figures, age) = put_down(|| (self.watched.figures)()).await.ok_or(Unanswered::NoFigures)?;
        if age > FIGURES_MOST { Err(Unanswered::OldFigures(age)) } else { Ok((figures, age)) }
    }

    /// How things are, and what was counted, which the status has as well, however old that is: the status says when it was.
    pub async fn status(&self) -> Result<Observation, Unanswered> {
        let overview = self.overview().await?;
        let counted = put_down(|| (self.watched.figures)()).await.ok_or(Unanswered::NoFigures)?;
        Ok(self.observe(&overview, counted))
    }

    fn observe(&self, overview: &Overview, (figures, age): (Arc<Snapshot>, Duration)) -> Observation {
        let mut status = overview.status();
        let uptime = Duration::try_from_secs_f64(status.uptime_s).unwrap_or_default();
        let started = *self.started.get_or_init(|| SystemTime::now() - uptime);
        figures::fill(&mut status, &figures);
        status.counted_s = Some(status.uptime_s - age.as_secs_f64());
        Observation { status, figures, started }
    }

    /// The page of metrics, of what the threads have put down last, however old that is: the page says when it was. One is made at
    /// a time, beside the thread that serves, and others wait for it.
    ///
    /// # Errors
    /// The process has just started, and nothing is put down yet; or it is about to stop.
    pub async fn page(&self) -> Result<Bytes, Unanswered> {
        let mut page = self.page.lock().await;
        let (overview, _) = put_down(|| self.watched.overview.get()).await.ok_or(Unanswered::NoOverview)?;
        if let Some(Page { of, text }) = &*page
            && Arc::ptr_eq(of, &overview)
        {
            return Ok(text.clone());
        }
        let counted = put_down(|| (self.watched.figures)()).await.ok_or(Unanswered::NoFigures)?;
        let observation = self.observe(&overview, counted);
        let made = tokio::task::spawn_blocking(move || prometheus::text(observation)).await;
        let text = Bytes::from(made.map_err(|_| Unanswered::Ended)?);
        *page = Some(Page { of: overview, text: text.clone() });
        Ok(text)
    }

    /// What the threads have put down last, and how old each is, however old.
    ///
    /// # Errors
    /// The process has just started, and nothing is put down yet.
    pub async fn seen(&self) -> Result<Observed, Unanswered> {
        let (overview, overview_age) = put_down(|| self.watched.overview.get()).await.ok_or(Unanswered::NoOverview)?;
        let (figures, figures_age) = put_down(|| (self.watched.figures)()).await.ok_or(Unanswered::NoFigures)?;
        let uptime = Duration::try_from_secs_f64(overview.head.uptime_s).unwrap_or_default();
        let started = *self.started.get_or_init(|| SystemTime::now() - uptime - overview.at.elapsed());
        Ok(Observed { overview, overview_age, figures, figures_age, started })
    }

    /// What was counted last, and how old that is; `None`: nothing yet.
    pub fn counted_last(&self) -> Option<(Arc<Snapshot>, Duration)> {
        (self.watched.figures)()
    }

    pub fn timeline(&self) -> &Timeline {
        &self.watched.timeline
    }

    async fn ask(&self, order: Order) -> Result<Answer, Unanswered> {
        let most = ORDER_MOST + order.takes();
        let (taken, answered) = (Instant::now() + ORDER_MOST, Instant::now() + most);
        let place = timeout_at(taken, self.orders.reserve()).await.map_err(|_| Unanswered::Busy)?;
        let (answer, wait) = oneshot::channel();
        place.map_err(|_| Unanswered::Ended)?.send((order, answer));
        match timeout_at(answered, wait).await {
            Ok(answer) => answer.map_err(|_| Unanswered::Ended),
            Err(_) => Err(Unanswered::Silent(most)),
        }
    }

    async fn figures(&self) -> Result<Snapshot, Unanswered> {
        let (answer, wait) = oneshot::channel();
        (self.figures)(answer);
        match timeout_at(Instant::now() + FIGURES_MOST, wait).await {
            Ok(figures) => figures.map_err(|_| Unanswered::Ended),
            Err(_) => Err(Unanswered::NoFigures),
        }
    }
}

/// At the start there may be nothing yet.
async fn put_down<T>(get: impl Fn() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + FIGURES_MOST;
    loop {
        match get() {
            None if Instant::now() < give_up => sleep(Duration::from_millis(5)).await,
            there => return there,
        }
    }
}
