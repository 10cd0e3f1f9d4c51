//! Prefixes that operators have denied by `ctl deny`, beside the configuration's lists.

use super::state_file::{from_wall_time, in_wall_time};
use crate::admin::order::Denial;
use crate::limits::{MAX_DENIED, MAX_DENY_S};
use crate::model::{List, ListKind, Prefix};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// One that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    pub prefix: Prefix,
    /// `None`: for every service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Seconds since 1970; `None`: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Denied {
    fn left(&self) -> Option<Duration> {
        self.until.map(from_wall_time)
    }

    fn is_of(&self, prefix: Prefix, service: Option<&str>) -> bool {
        self.prefix == prefix && self.service.as_deref() == service
    }

    fn named(prefix: Prefix, service: Option<&str>) -> String {
        format!("{prefix}{}", service.map_or(String::new(), |service| format!(" of service {service}")))
    }
}

/// All that stand, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Denials(pub Vec<Denied>);

impl Denials {
    /// Denies a prefix, for so long; again, for another time. What to say of it.
    ///
    /// # Errors
    /// The time is too long, or so many stand already; in words.
    pub fn add(&mut self, prefix: Prefix, service: Option<&str>, for_s: Option<u64>) -> Result<String, String> {
        if let Some(seconds) = for_s.filter(|seconds| *seconds > MAX_DENY_S) {
            return Err(format!(
                "{seconds} s is too long; the most is {MAX_DENY_S} s (a year); leave it out to deny until `ctl undeny`"
            ));
        }
        self.0.retain(|known| !known.is_of(prefix, service));
        if self.0.len() >= MAX_DENIED {
            return Err(format!("{MAX_DENIED} prefixes are denied by ctl already; put them into a file of a [[deny]]"));
        }
        let until = for_s.map(|seconds| in_wall_time(Duration::from_secs(seconds)));
        self.0.push(Denied { prefix, service: service.map(str::to_owned), until });
        let time = for_s.map_or("until `ctl undeny`".to_owned(), |seconds| format!("for {seconds} s"));
        Ok(format!("{} is denied {time}", Denied::named(prefix, service)))
    }

    /// Takes one back. What to say of it.
    ///
    /// # Errors
    /// It is not denied by ctl; in words.
    pub fn remove(&mut self, prefix: Prefix, service: Option<&str>) -> Result<String, String> {
        let before = self.0.len();
        self.0.retain(|known| !known.is_of(prefix, service));
        match self.0.len() < before {
            true => Ok(format!("{} is not denied by ctl any more", Denied::named(prefix, service))),
            false => Err(format!(
                "{} is not denied by ctl; `oneip ctl denied` shows what is",
                Denied::named(prefix, service)
            )),
        }
    }

    /// Ends those whose time is over. What to say of each.
    pub fn expire(&mut self) -> Vec<String> {
        let over = self.0.extract_if(.., |known| known.left().is_some_and(|left| left.is_zero()));
        over.map(|known| format!("{}: the deny has expired", Denied::named(known.prefix, known.service.as_deref())))
            .collect()
    }

    /// How long it is until the next one's time is over.
    pub fn due(&self) -> Option<Duration> {
        self.0.iter().filter_map(Denied::left).min()
    }

    /// As lists, one for each service that has any, and one for all.
    pub fn lists(&self) -> Vec<List> {
        let mut prefixes: BTreeMap<Option<&String>, Vec<Prefix>> = BTreeMap::new();
        self.0.iter().for_each(|known| prefixes.entry(known.service.as_ref()).or_default().push(known.prefix));
        let list = |(service, prefixes): (Option<&String>, Vec<Prefix>)| List {
            kind: ListKind::Deny,
            services: service.into_iter().cloned().collect(),
            prefixes,
            files: Vec::new(),
        };
        prefixes.into_iter().map(list).collect()
    }

    /// Services have other names now.
    pub fn rename(&mut self, services: &HashMap<String, Vec<String>>) {
        for known in &mut self.0 {
            let new = known.service.as_ref().and_then(|service| services.get(service)?.first());
            if let Some(new) = new {
                known.service = Some(new.clone());
            }
        }
    }

    /// As an operator is shown them.
    pub fn shown(&self) -> Vec<Denial> {
        let shown = |known: &Denied| Denial {
            prefix: known.prefix,
            service: known.service.clone(),
            left_s: known.left().map(|left| left.as_secs()),
        };
        self.0.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn what_is_denied_is_listed_until_it_is_taken_back_or_over() {
        let mut denials = Denials::default();
        let net = prefix("198.51.100.0/24");
        assert_eq!(denials.add(net, None, None).as_deref(), Ok("198.51.100.0/24 is denied until `ctl undeny`"));
        assert_eq!(denials.due(), None);
        assert_eq!(denials.add(net, None, Some(60)).as_deref(), Ok("198.51.100.0/24 is denied for 60 s"));
        let said = denials.add(prefix("2001:db8::7"), Some("web"), Some(0));
        assert_eq!(said.as_deref(), Ok("2001:db8::7 of service web is denied for 0 s"));
        assert_eq!((denials.0.len(), denials.lists().len(), denials.due()), (2, 2, Some(Duration::ZERO)));
        assert_eq!(denials.expire(), ["2001:db8::7 of service web: the deny has expired"]);
        assert!(denials.due().is_some_and(|due| due > Duration::from_secs(50)), "{:?}", denials.due());
        let again: Denials = serde_json::from_str(&serde_json::to_string(&denials).expect("JSON")).expect("read");
        assert_eq!(again, denials);
        assert!(denials.remove(net, Some("web")).is_err());
        assert!(denials.remove(net, None).is_ok() && denials.remove(net, None).is_err());
        assert!(denials.add(net, None, Some(MAX_DENY_S + 1)).is_err());
        for at in 0..MAX_DENIED as u32 {
            denials.add(Prefix::host(std::net::Ipv4Addr::from_bits(at).into()), None, None).expect("there is room");
        }
        assert!(denials.add(net, None, None).expect_err("it is full").contains("[[deny]]"));
    }
}
