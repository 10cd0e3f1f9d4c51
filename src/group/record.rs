//! The values in the store. Each is checked like a configuration file before anything else is done with it: its size, its keys, its
//! bounds. Whoever can write to the store can give orders, and nothing else.

use super::heard::Order;
use crate::config;
use crate::config::published::Published;
use crate::control::agreement::View;
use crate::limits::{GROUP_AHEAD, GROUP_CONFIG, GROUP_VALUE, GROUP_VIEW, MAX_DENY_S, MAX_DRAIN_S, MAX_WEIGHT};
use crate::model::Prefix;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

const YEAR_S: u64 = 365 * 24 * 60 * 60;

/// In milliseconds since 1970: the year in which this was written.
const CLOCK_AT_LEAST_MS: u64 = 56 * YEAR_S * 1000;

/// One thing that was ordered, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamped<T> {
    pub set: T,
    /// The member that was told.
    pub by: String,
    /// In milliseconds since 1970, by that member's clock.
    pub at_ms: u64,
}

/// What was ordered for a server. What is absent was never ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerOrders {
    /// Seconds since 1970 until when it keeps its connections; `None`: it is not drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_until: Option<Stamped<Option<u64>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Stamped<bool>>,
    /// `None`: the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Stamped<Option<u32>>>,
}

/// A prefix that is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyOrder {
    /// Seconds since 1970; `None`: until it is taken back.
    pub until: Option<u64>,
    pub by: String,
    pub at_ms: u64,
}

/// What members must have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    pub configuration: String,
    pub key: String,
}

/// A member that lives: the value goes with its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub version: String,
    /// `dispatcher` or `filter`.
    pub mode: String,
    /// Of the host and the admin socket: two processes of one name are told apart by it.
    pub place: String,
    pub digest: Digest,
}

/// What a member finds of the servers: the value goes with its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberView {
    /// Of the configuration that it is about.
    pub digest: Digest,
    pub view: View,
}

/// How far a member is. It is read when somebody asks, and watched by nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Of its table.
    pub generation: u64,
    /// Of the store: what it has taken in.
    pub revision: i64,
    /// Services that routers send to it, of those that it has.
    pub announced: usize,
    pub services: usize,
    /// The generation of what was published that it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
}

/// The keys, below `/oneip/NAME/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Server(String),
    Denied(Prefix, Option<String>),
    Member(String),
    View(String),
    /// The services that were published.
    Config,
}

/// A server, and the service in which an order is for it alone: `SERVER@SERVICE`.
pub fn apart(subject: &str) -> (&str, Option<&str>) {
    subject.split_once('@').map_or((subject, None), |(server, service)| (server, Some(service)))
}

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Server(String, ServerOrders),
    Denied(Prefix, Option<String>, DenyOrder),
    Member(String, Member),
    View(String, MemberView),
    Config(Box<Published>),
}

impl Place {
    /// Behind the prefix that is watched.
    pub fn key(&self) -> String {
        match self {
            Place::Server(name) => format!("orders/servers/{name}"),
            Place::Denied(prefix, None) => format!("orders/denied/{prefix}"),
            Place::Denied(prefix, Some(service)) => format!("orders/denied/{prefix}@{service}"),
            Place::Member(name) => format!("members/{name}"),
            Place::View(name) => format!("views/{name}"),
            Place::Config => "config".to_owned(),
        }
    }

    /// Whether it is something that an operator has ordered.
    pub fn is_order(&self) -> bool {
        matches!(self, Place::Server(_) | Place::Denied(..))
    }

    /// # Errors
    /// No such key is known, in words.
    pub fn read(key: &[u8]) -> Result<Place, String> {
        let key = std::str::from_utf8(key).map_err(|_| "its key is not UTF-8")?;
        if let Some(name) = key.strip_prefix("orders/servers/") {
            let (server, service) = apart(name);
            service.map_or(Ok(String::new()), config::name)?;
            return config::name(server).map(|_| Place::Server(name.to_owned()));
        }
        if let Some(name) = key.strip_prefix("members/") {
            return Ok(Place::Member(config::name(name)?));
        }
        if let Some(name) = key.strip_prefix("views/") {
            return Ok(Place::View(config::name(name)?));
        }
        if key == "config" {
            return Ok(Place::Config);
        }
        let denied = key.strip_prefix("orders/denied/").ok_or("no such key is known; is it of a newer version?")?;
        let (prefix, service) = match denied.split_once('@') {
            Some((prefix, service)) => (prefix, Some(config::name(service)?)),
            None => (denied, None),
        };
        Ok(Place::Denied(prefix.parse()?, service))
    }
}

impl Record {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(place: &Place, value: &[u8]) -> Result<Record, String> {
        Ok(match place {
            Place::Server(name) => Record::Server(name.clone(), ServerOrders::read(value)?),
            Place::Denied(prefix, service) => Record::Denied(*prefix, service.clone(), DenyOrder::read(value)?),
            Place::Member(name) => {
                let member: Member = json(value)?;
                config::name(&member.mode)?;
                words(&[&member.version, &member.place, &member.digest.configuration, &member.digest.key])?;
                Record::Member(name.clone(), member)
            }
            Place::View(name) => {
                let found: MemberView = json_within(value, GROUP_VIEW)?;
                words(&[&found.digest.configuration, &found.digest.key])?;
                found.view.check()?;
                Record::View(name.clone(), found)
            }
            // In JSON it may be longer than in TOML.
            Place::Config => {
                let published: Published = json_within(value, 2 * GROUP_CONFIG)?;
                published.check()?;
                Record::Config(Box::new(published))
            }
        })
    }
}

impl<T> Stamped<T> {
    pub fn order(&self) -> Order<'_> {
        (&self.by, self.at_ms)
    }
}

impl ServerOrders {
    pub fn read(value: &[u8]) -> Result<ServerOrders, String> {
        let orders: ServerOrders = json(value)?;
        orders.check().map(|()| orders)
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        let ServerOrders { drained_until, disabled, weight } = self;
        let stamps = [
            drained_until.as_ref().map(|it| (&it.by, it.at_ms)),
            disabled.as_ref().map(|it| (&it.by, it.at_ms)),
            weight.as_ref().map(|it| (&it.by, it.at_ms)),
        ];
        stamps.into_iter().flatten().try_for_each(stamp)?;
        if let Some(Stamped { set: Some(until), at_ms, .. }) = drained_until {
            lasts("drained_until", *until, *at_ms, MAX_DRAIN_S.into())?;
        }
        match weight {
            Some(Stamped { set: Some(weight), .. }) if *weight > MAX_WEIGHT => {
                Err(format!("`weight` {weight} is more than {MAX_WEIGHT}"))
            }
            _ => Ok(()),
        }
    }

    /// `newer` where it has something, and this elsewhere.
    pub fn under(&self, newer: &ServerOrders) -> ServerOrders {
        ServerOrders {
            drained_until: newer.drained_until.clone().or_else(|| self.drained_until.clone()),
            disabled: newer.disabled.clone().or_else(|| self.disabled.clone()),
            weight: newer.weight.clone().or_else(|| self.weight.clone()),
        }
    }

    /// Of each thing the later one: both orders of two members are in it, and of one thing the last.
    pub fn merged(&self, other: &ServerOrders) -> ServerOrders {
        ServerOrders {
            drained_until: later(&self.drained_until, &other.drained_until),
            disabled: later(&self.disabled, &other.disabled),
            weight: later(&self.weight, &other.weight),
        }
    }

    /// Who ordered last, and when.
    pub fn last(&self) -> Option<(&str, u64)> {
        let stamps = [
            self.drained_until.as_ref().map(|it| (it.by.as_str(), it.at_ms)),
            self.disabled.as_ref().map(|it| (it.by.as_str(), it.at_ms)),
            self.weight.as_ref().map(|it| (it.by.as_str(), it.at_ms)),
        ];
        stamps.into_iter().flatten().max_by_key(|(_, at)| *at)
    }
}

/// Of two at the same time, the one of the greater name: every member says the same.
fn later<T: Clone>(one: &Option<Stamped<T>>, other: &Option<Stamped<T>>) -> Option<Stamped<T>> {
    match (one, other) {
        (Some(one), Some(other)) if (other.at_ms, &other.by) > (one.at_ms, &one.by) => Some(other.clone()),
        (Some(one), _) => Some(one.clone()),
        (None, other) => other.clone(),
    }
}

impl DenyOrder {
    pub fn order(&self) -> Order<'_> {
        (&self.by, self.at_ms)
    }

    pub fn read(value: &[u8]) -> Result<DenyOrder, String> {
        let order: DenyOrder = json(value)?;
        order.check().map(|()| order)
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        stamp((&self.by, self.at_ms))?;
        self.until.map_or(Ok(()), |until| lasts("until", until, self.at_ms, MAX_DENY_S))
    }
}

fn words(words: &[&String]) -> Result<(), String> {
    match words.iter().any(|word| word.len() > 64 || word.chars().any(char::is_control)) {
        true => Err("a word in it is too long, or has control characters".to_owned()),
        false => Ok(()),
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    json_within(value, GROUP_VALUE)
}

fn json_within<T: DeserializeOwned>(value: &[u8], most: usize) -> Result<T, String> {
    if value.len() > most {
        return Err(format!("it has {} bytes, and may have {most}", value.len()));
    }
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// Reads what is not acted upon.
pub fn progress(value: &[u8]) -> Option<Progress> {
    json(value).ok()
}

/// An order that replaces another one gets a later time. So no time can be the last one that is accepted: the bound moves on with the clock,
/// and a moment later what follows is accepted too. Otherwise a time from the far future could never be replaced.
fn stamp((by, at_ms): (&String, u64)) -> Result<(), String> {
    config::name(by)?;
    match at_ms <= latest_ms() {
        true => Ok(()),
        false => {
            Err(format!("it has a time that is more than {} years ahead of this clock", GROUP_AHEAD.as_secs() / YEAR_S))
        }
    }
}

/// A clock that has not been set yet says 1970: what members order whose clocks are right is accepted there too.
fn latest_ms() -> u64 {
    now_ms().max(CLOCK_AT_LEAST_MS) + GROUP_AHEAD.as_millis() as u64
}

/// A drain or a denial is no longer than an operator can order it.
fn lasts(what: &str, until: u64, at_ms: u64, most: u64) -> Result<(), String> {
    if until <= at_ms / 1000 + most + 1 {
        return Ok(());
    }
    Err(format!("`{what}` is more than {most} s after it was ordered"))
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_checked_like_a_configuration() {
        let read = |text: &str| ServerOrders::read(text.as_bytes());
        let at = 1_764_000_000_000u64;
        let drained = |until: u64| format!(r#"{{"drained_until":{{"set":{until},"by":"d1","at_ms":{at}}}}}"#);
        assert!(read(&drained(at / 1000 + 600)).is_ok());
        for (wrong, said) in [
            (drained(at / 1000 + 700_000), "`drained_until` is more than 604800 s after it was ordered"),
            (r#"{"weight":{"set":65536,"by":"d1","at_ms":1}}"#.to_owned(), "`weight` 65536 is more than 65535"),
            (r#"{"weight":{"set":1,"by":"d 1","at_ms":1}}"#.to_owned(), "is not a name"),
            (
                r#"{"weight":{"set":1,"by":"d1","at_ms":9999999999999999}}"#.to_owned(),
                "more than 10 years ahead of this clock",
            ),
            (r#"{"wait":1}"#.to_owned(), "unknown field `wait`"),
            ("[]x".to_owned(), "trailing characters"),
            (" ".repeat(GROUP_VALUE + 1), "and may have"),
        ] {
            let error = read(&wrong).expect_err(&wrong);
            assert!(error.contains(said), "{wrong}: {error}");
        }
        assert!(DenyOrder::read(format!(r#"{{"until":99999999999,"by":"d1","at_ms":{at}}}"#).as_bytes()).is_err());
    }

    #[test]
    fn a_view_is_checked_like_a_configuration() {
        let place = Place::View("d1".into());
        let read = |view: &str| {
            let text = format!(r#"{{"digest":{{"configuration":"c","key":"k"}},"view":{view}}}"#);
            Record::read(&place, text.as_bytes()).map(|_| ())
        };
        let reason = |why: &str| {
            format!(
                r#"{{"finds":{{"web":"u2d"}},"reasons":[{{"service":"web","server":"web3","since":1,"why":"{why}"}}]}}"#
            )
        };
        assert_eq!(read(&reason("connection refused")), Ok(()));
        assert_eq!(read(r#"{"finds":{},"cut_off":true}"#), Ok(()));
        for (wrong, said) in [
            (r#"{"finds":{"web":"u2x"}}"#.to_owned(), "service \"web\": 'x' is not a finding"),
            (r#"{"finds":{"web":"u4096"}}"#.to_owned(), "a run of findings is of 1 to 1024 servers"),
            (reason(&"x".repeat(201)), "a reason has more than 200 characters, or control characters"),
            (reason("\\u001b[2J"), "a reason has more than 200 characters, or control characters"),
            (r#"{"finds":{},"clock":1}"#.to_owned(), "unknown field `clock`"),
            (format!(r#"{{"finds":{{"web":"{}"}}}}"#, "u".repeat(GROUP_VIEW)), "and may have 262144"),
            (
                format!(
                    r#"{{"finds":{{}},"reasons":[{}]}}"#,
                    vec![r#"{"service":"a","server":"b","since":1,"why":""}"#; 65].join(",")
                ),
                "or more than 64 reasons",
            ),
        ] {
            let error = read(&wrong).expect_err(&wrong);
            assert!(error.contains(said), "{wrong}: {error}");
        }
        let words =
            format!(r#"{{"digest":{{"configuration":"{}","key":"k"}},"view":{{"finds":{{}}}}}}"#, "c".repeat(65));
        assert!(Record::read(&place, words.as_bytes()).is_err());
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_no_other_is_taken() {
        let prefix: Prefix = "2001:db8::/32".parse().expect("a prefix");
        for place in [
            Place::Server("web1".into()),
            Place::Server("web1@mail".into()),
            Place::Member("d1".into()),
            Place::View("d1".into()),
            Place::Config,
            Place::Denied(prefix, None),
            Place::Denied("192.0.2.7".parse().expect("a prefix"), Some("web".into())),
        ] {
            assert_eq!(Place::read(place.key().as_bytes()), Ok(place));
        }
        for wrong in
            ["", "orders/servers/", "orders/servers/a b", "orders/denied/300.0.0.0/8", "members/\u{7}", "other"]
        {
            assert!(Place::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Place::read(b"members/\xff").is_err());
    }

    #[test]
    fn of_two_orders_at_once_nothing_is_lost_and_every_member_says_the_same() {
        let weight = |set, by: &str, at_ms| ServerOrders {
            weight: Some(Stamped { set: Some(set), by: by.into(), at_ms }),
            ..ServerOrders::default()
        };
        let disabled = ServerOrders {
            disabled: Some(Stamped { set: true, by: "d2".into(), at_ms: 5 }),
            ..ServerOrders::default()
        };
        let both = weight(3, "d1", 7).merged(&disabled);
        assert_eq!(both, disabled.merged(&weight(3, "d1", 7)));
        assert_eq!(both.last(), Some(("d1", 7)));
        assert!(both.disabled.is_some() && both.weight.is_some());
        let (one, other) = (weight(1, "d1", 7), weight(2, "d2", 7));
        assert_eq!(one.merged(&other), other.merged(&one));
        assert_eq!(one.merged(&weight(9, "d9", 6)), one);
    }
}
