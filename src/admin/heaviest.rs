//! Who sends most, for all who look on: `ctl top` and the page share one look, which is taken again and again while somebody asks.

use super::backend::Backend;
use super::order::{Answer, Heaviest, LookForTalkers, Order, Talkers};
use crate::limits::{
    TALKERS_PREFIX_V4, TALKERS_PREFIX_V6, TALKERS_VIEW_EVERY, TALKERS_VIEW_FOR, TALKERS_VIEW_MOST, TALKERS_VIEW_SHOWN,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Instant, sleep};

/// What the looks have found.
#[derive(Clone, Default)]
pub(super) struct Looks(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// When the last look began.
    begun: Option<Instant>,
    last: Option<(Talkers, Instant)>,
    /// Why the last look could not be taken.
    error: Option<String>,
}

impl Looks {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether it is time for another look; who is told so has to take it.
    fn is_due(&mut self) -> bool {
        let is_due = self.begun.is_none_or(|begun| begun.elapsed() >= TALKERS_VIEW_EVERY);
        if is_due {
            self.begun = Some(Instant::now());
        }
        is_due
    }

    fn heaviest(&self) -> Heaviest {
        let fresh = self.last.as_ref().filter(|(_, at)| at.elapsed() < TALKERS_VIEW_MOST);
        let (talkers, age_s) = fresh.map(|(talkers, at)| (talkers.clone(), at.elapsed().as_secs_f64())).unzip();
        Heaviest { talkers, age_s, error: self.error.clone() }
    }
}

impl Backend {
    /// What is known, at once. Has another look taken if it is time for that.
    pub fn heaviest(&self) -> Heaviest {
        let mut known = self.looks.known();
        if known.is_due() {
            let backend = self.clone();
            tokio::spawn(async move {
                let found = backend.look().await;
                let mut known = backend.looks.known();
                match found {
                    Ok(talkers) => (known.last, known.error) = (Some((talkers, Instant::now())), None),
                    Err(error) => known.error = Some(error),
                }
            });
        }
        known.heaviest()
    }

    async fn look(&self) -> Result<Talkers, String> {
        let look = LookForTalkers {
            for_ms: TALKERS_VIEW_FOR.as_millis() as u64,
            one_in: LookForTalkers::one_in(self.frames_per_s().await?),
            prefix_v4: TALKERS_PREFIX_V4,
            prefix_v6: TALKERS_PREFIX_V6,
            most: TALKERS_VIEW_SHOWN as u32,
            service: None,
            gives_way: true,
        };
        match self.order(Order::Talkers(look)).await {
            Ok(Answer::Talkers(mut talkers)) => {
                talkers.sources.truncate(TALKERS_VIEW_SHOWN);
                Ok(talkers)
            }
            Ok(Answer::Refused { error }) => Err(error),
            Ok(answer) => unreachable!("a look for talkers is not answered by {answer:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn frames_per_s(&self) -> Result<f64, String> {
        let count = async || match self.counted().await {
            Ok((figures, age)) => Ok((figures.summary.frames, Instant::now() - age)),
            Err(error) => Err(error.to_string()),
        };
        let (before, since) = count().await?;
        sleep(TALKERS_VIEW_FOR).await;
        let (now, until) = count().await?;
        // The counters were put down some time before.
        let time = (until - since).max(TALKERS_VIEW_FOR / 2);
        Ok(now.saturating_sub(before) as f64 / time.as_secs_f64())
    }
}
