//! What operators have set beside the configuration.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What was set for one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// It takes no new clients; seconds since 1970 until when it keeps the connections it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// In place of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

impl Override {
    /// In words.
    pub fn said(&self) -> String {
        let set = [
            self.drained_until.map(|_| "drained".to_owned()),
            self.disabled.then(|| "disabled".to_owned()),
            self.weight.map(|weight| format!("weight {weight}")),
        ];
        let set: Vec<String> = set.into_iter().flatten().collect();
        if set.is_empty() { "as the configuration has it".to_owned() } else { set.join(", ") }
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// By name of the server, in every service that has it, those too that a reload adds; none is empty.
    servers: BTreeMap<String, Override>,
    /// In one service, in place of that: by names of the service and of the server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<String, BTreeMap<String, Override>>,
}

/// A service and a server, by name.
pub type Name = (String, String);

impl Overrides {
    /// `servers`: in every service; `each`: in one.
    pub fn new(servers: BTreeMap<String, Override>, each: impl IntoIterator<Item = (Name, Override)>) -> Overrides {
        let mut services: BTreeMap<String, BTreeMap<String, Override>> = BTreeMap::new();
        for ((service, server), one) in each {
            services.entry(service).or_default().insert(server, one);
        }
        let mut all = Overrides { servers, services };
        all.tidy();
        all
    }

    /// What counts for a server of a service.
    pub fn get(&self, service: &str, server: &str) -> Override {
        let in_service = self.services.get(service).and_then(|of| of.get(server));
        in_service.or_else(|| self.servers.get(server)).copied().unwrap_or_default()
    }

    /// Those that are for every service.
    pub fn everywhere(&self) -> &BTreeMap<String, Override> {
        &self.servers
    }

    /// Those that are for one service.
    pub fn each(&self) -> impl Iterator<Item = (&str, &str, &Override)> {
        self.services.iter().flat_map(|(service, of)| of.iter().map(|(server, one)| (&service[..], &server[..], one)))
    }

    pub fn all(&self) -> impl Iterator<Item = &Override> {
        self.servers.values().chain(self.services.values().flat_map(BTreeMap::values))
    }

    /// Changes what was set for a server: in one service, or in every one, those too for which it was set apart.
    pub fn change(&mut self, service: Option<&str>, server: &str, change: impl Fn(&mut Override)) {
        match service {
            Some(service) => {
                let mut one = self.get(service, server);
                change(&mut one);
                self.services.entry(service.to_owned()).or_default().insert(server.to_owned(), one);
            }
            None => {
                self.services.values_mut().filter_map(|of| of.get_mut(server)).for_each(&change);
                change(self.servers.entry(server.to_owned()).or_default());
            }
        }
        self.tidy();
    }

    /// What says nothing of its own goes.
    fn tidy(&mut self) {
        let Overrides { servers, services } = self;
        servers.retain(|_, one| *one != Override::default());
        for of in services.values_mut() {
            of.retain(|server, one| servers.get(server).copied().unwrap_or_default() != *one);
        }
        services.retain(|_, of| !of.is_empty());
    }
}

/// The services whose cluster addresses are not to be announced, by name, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// Those too that a reload adds.
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub services: BTreeSet<String>,
}

impl Withdrawn {
    pub fn has(&self, service: &str) -> bool {
        self.all || self.services.contains(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_for_one_service_stands_beside_what_is_set_for_all() {
        let mut set = Overrides::default();
        set.change(None, "a", |one| one.disabled = true);
        set.change(Some("web"), "a", |one| one.disabled = false);
        set.change(Some("web"), "a", |one| one.weight = Some(3));
        let of = |set: &Overrides, service| (set.get(service, "a").disabled, set.get(service, "a").weight);
        assert_eq!([of(&set, "web"), of(&set, "mail")], [(false, Some(3)), (true, None)]);
        assert_eq!(set.get("web", "b"), Override::default());
        let text = serde_json::to_string(&set).expect("JSON");
        assert_eq!(text, r#"{"servers":{"a":{"disabled":true}},"services":{"web":{"a":{"weight":3}}}}"#);
        assert_eq!(serde_json::from_str::<Overrides>(&text).expect("read"), set);
        // For all: where it stood apart, too, and what it has apart stays.
        set.change(None, "a", |one| one.disabled = true);
        assert_eq!([of(&set, "web"), of(&set, "mail")], [(true, Some(3)), (true, None)]);
        set.change(None, "a", |one| *one = Override::default());
        assert_eq!(set, Overrides::default());
        assert_eq!(serde_json::to_string(&set).expect("JSON"), r#"{"servers":{}}"#, "as it always was");
    }

    #[test]
    fn what_is_not_set_in_one_service_alone_is_remembered() {
        let mut set = Overrides::default();
        set.change(None, "a", |one| one.drained_until = Some(9));
        set.change(Some("web"), "a", |one| one.drained_until = None);
        assert_eq!(
            set.each().map(|(service, server, one)| (service, server, one.said())).collect::<Vec<_>>(),
            [("web", "a", "as the configuration has it".to_owned())]
        );
        assert_eq!((set.all().count(), set.get("mail", "a").said()), (2, "drained".to_owned()));
    }
}
