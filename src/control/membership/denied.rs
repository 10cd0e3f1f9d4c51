//! Whose frames are denied: the configuration's lists, whose files may change, and what operators deny.

use super::{Membership, Side, Update};
use crate::admin::order::{Answer, Denial};
use crate::control::denials::Denials;
use crate::model::{List, Prefix, list, names};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Membership {
    /// Denies a prefix for so long, or without end; and remembers it across a restart.
    pub fn deny(&mut self, prefix: Prefix, service: Option<&str>, for_s: Option<u64>) -> (Answer, Option<Update>) {
        self.change_denials(service, |denials| denials.add(prefix, service, for_s))
    }

    /// The end of a `deny`.
    pub fn undeny(&mut self, prefix: Prefix, service: Option<&str>) -> (Answer, Option<Update>) {
        self.change_denials(None, |denials| denials.remove(prefix, service))
    }

    /// Has those denied that the group denies. Whether that changed anything.
    pub fn adopt_denied(&mut self, denials: Denials) -> Option<Update> {
        if self.side != Side::Dispatcher || denials == self.denials {
            return None;
        }
        let (before, now) = (self.denials.0.len(), denials.0.len());
        if self.cluster.set_lists(&self.configured.lists, denials.lists().into()).is_err() {
            tracing::warn!(
                "group: services would have too many different combinations of lists: the prefixes denied here stay as \
                 they were"
            );
            return None;
        }
        self.denials = denials;
        self.tell_operator(&[format!("the group denies {now} prefixes, before {before}")]);
        self.note();
        Some(Update::Table)
    }

    /// What operators have denied.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    fn change_denials(
        &mut self,
        service: Option<&str>,
        change: impl FnOnce(&mut Denials) -> Result<String, String>,
    ) -> (Answer, Option<Update>) {
        match self.try_change_denials(service, change) {
            Ok(said) => {
                let changes = vec![said];
                self.tell_operator(&changes);
                (Answer::Done { changes }, Some(Update::Table))
            }
            Err(error) => (Answer::Refused { error }, None),
        }
    }

    fn try_change_denials(
        &mut self,
        service: Option<&str>,
        change: impl FnOnce(&mut Denials) -> Result<String, String>,
    ) -> Result<String, String> {
        if self.side != Side::Dispatcher {
            return Err("a filter or decap cannot deny addresses; give the order to a dispatcher".to_owned());
        }
        let known: Vec<&str> = self.configured.services.iter().map(|known| known.name.as_str()).collect();
        if let Some(service) = service.filter(|service| !known.contains(service)) {
            return Err(format!("there is no service {service}; there are {}", names::first(known)));
        }
        let mut denials = self.denials.clone();
        let said = change(&mut denials)?;
        if self.cluster.set_lists(&self.configured.lists, denials.lists().into()).is_err() {
            return Err("services would have too many different combinations of lists; deny it for all services".into());
        }
        self.denials = denials;
        self.confirm();
        Ok(said)
    }

    /// The lists that count now, for the next table.
    pub(super) fn relist(&mut self) {
        if self.cluster.set_lists(&self.configured.lists, self.denials.lists().into()).is_err() {
            tracing::warn!("services have too many different combinations of lists: the lists stay as they were");
        }
    }

    /// How long it is until a `deny` is over.
    pub fn denied_due(&self) -> Option<Duration> {
        self.denials.due()
    }

    /// Ends each `deny` whose time is over.
    pub fn expire_denied(&mut self) -> Option<Update> {
        let over = self.denials.expire();
        if over.is_empty() {
            return None;
        }
        over.iter().for_each(|said| tracing::info!("deny: {said}"));
        self.relist();
        self.note();
        Some(Update::Table)
    }

    /// What operators deny.
    pub fn denied(&self) -> Vec<Denial> {
        self.denials.shown()
    }

    /// A file of prefixes has another content. What to say of it; `None`: it is the same.
    ///
    /// # Errors
    /// There are too many prefixes with it; the content before stays.
    pub fn set_list_file(&mut self, path: &Path, prefixes: &Arc<[Prefix]>) -> Result<Option<String>, String> {
        let mut lists = self.configured.lists.clone();
        let mut before = None;
        for file in lists.iter_mut().flat_map(|list: &mut List| &mut list.files).filter(|file| file.path == path) {
            if file.prefixes != *prefixes {
                before = Some(file.prefixes.len());
                file.prefixes = Arc::clone(prefixes);
            }
        }
        let Some(before) = before else { return Ok(None) };
        if let Some(excess) = list::excess(&lists) {
            return Err(format!("{}: {excess}", path.display()));
        }
        Arc::make_mut(&mut self.plan).lists.clone_from(&lists);
        Arc::make_mut(&mut self.configured).lists = lists;
        self.relist();
        Ok(Some(format!("{}: {} prefixes, before {before}", path.display(), prefixes.len())))
    }
}
