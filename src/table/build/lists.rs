//! Lists of the configuration and of operators, compiled for all services.

use super::Cluster;
use crate::model::List;
use crate::model::list::TooManyGroups;
use crate::table::ServiceId;
use crate::table::lists::{Listed, Lists};
use std::net::IpAddr;
use std::sync::Arc;

impl Cluster {
    /// Has sources denied by the plan's lists and by what operators deny, from the next table on.
    ///
    /// # Errors
    /// See `TooManyGroups`; those that there were stay.
    pub fn set_lists(&mut self, listed: &[List], denied: Arc<[List]>) -> Result<(), TooManyGroups> {
        self.lists = self.compile_lists(listed, &denied)?;
        self.denied = denied;
        Ok(())
    }

    /// What the lists say of the frames of a client to a service.
    pub fn listed(&self, service: ServiceId, client: IpAddr) -> Listed {
        self.lists.as_ref().map_or(Listed::No, |lists| lists.listed_ip(client, service))
    }

    fn compile_lists(&self, listed: &[List], denied: &[List]) -> Result<Option<Arc<Lists>>, TooManyGroups> {
        let names: Vec<&str> = self.services.iter().map(|service| service.identity.name.as_str()).collect();
        Ok(Lists::new(&[listed, denied].concat(), &names)?.map(Arc::new))
    }
}
