//! What is known of the store: the orders of the group, and its members.

use super::record::{DenyOrder, Digest, Member, MemberView, Place, Record, ServerOrders};
use crate::config::published::Published;
use crate::limits::{GROUP_MEMBERS, GROUP_SERVERS, MAX_DENIED};
use crate::model::Prefix;
use std::collections::{BTreeMap, HashMap};

/// A key of the store as it came.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Behind the watched prefix.
    pub key: Vec<u8>,
    /// `None`: it was deleted.
    pub value: Option<Vec<u8>>,
    /// When it was made: a member that is longer there has a smaller one.
    pub created: i64,
    /// When it was last written.
    pub revision: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    pub servers: BTreeMap<String, ServerOrders>,
    pub denied: BTreeMap<(Prefix, Option<String>), DenyOrder>,
    /// With the revision since which each is there.
    pub members: BTreeMap<String, (Member, i64)>,
    /// What each member finds, with the revision at which it was written.
    pub views: BTreeMap<String, (MemberView, i64)>,
    /// The services that were published.
    pub published: Option<Box<Published>>,
    /// Values that are not used, by key, and why.
    pub bad: BTreeMap<String, String>,
    /// When each order was last written.
    pub written: BTreeMap<String, i64>,
}

impl Shared {
    /// Takes in a key. What is wrong is noted and changes nothing else: what was known of that key stays.
    pub fn take(&mut self, entry: &Entry) {
        let shown =
            String::from_utf8_lossy(&entry.key).chars().filter(|c| !c.is_control()).take(96).collect::<String>();
        let place = match Place::read(&entry.key) {
            Ok(place) => place,
            Err(why) => return self.refuse(shown, why, entry.value.is_some()),
        };
        let Some(value) = &entry.value else {
            self.bad.remove(&shown);
            self.written.remove(&place.key());
            return match place {
                Place::Server(name) => _ = self.servers.remove(&name),
                Place::Denied(prefix, service) => _ = self.denied.remove(&(prefix, service)),
                Place::Member(name) => _ = self.members.remove(&name),
                Place::View(name) => _ = self.views.remove(&name),
                Place::Config => self.published = None,
            };
        };
        let record = Record::read(&place, value).and_then(|record| self.room(&record).map(|()| record));
        match record {
            Err(why) => return self.refuse(shown, why, true),
            Ok(Record::Server(name, orders)) => _ = self.servers.insert(name, orders),
            Ok(Record::Denied(prefix, service, order)) => _ = self.denied.insert((prefix, service), order),
            Ok(Record::Member(name, member)) => _ = self.members.insert(name, (member, entry.created)),
            Ok(Record::View(name, view)) => _ = self.views.insert(name, (view, entry.revision)),
            Ok(Record::Config(published)) => self.published = Some(published),
        }
        self.bad.remove(&shown);
        if place.is_order() {
            self.written.insert(place.key(), entry.revision);
        }
    }

    fn refuse(&mut self, key: String, why: String, is_there: bool) {
        match is_there {
            true if self.bad.len() < GROUP_MEMBERS || self.bad.contains_key(&key) => _ = self.bad.insert(key, why),
            true => {}
            false => _ = self.bad.remove(&key),
        }
    }

    /// A store that is full of nonsense fills no memory.
    fn room(&self, record: &Record) -> Result<(), String> {
        let (known, count, most) = match record {
            Record::Server(name, _) => (self.servers.contains_key(name), self.servers.len(), GROUP_SERVERS),
            Record::Denied(prefix, service, _) => {
                (self.denied.contains_key(&(*prefix, service.clone())), self.denied.len(), MAX_DENIED)
            }
            Record::Member(name, _) => (self.members.contains_key(name), self.members.len(), GROUP_MEMBERS),
            Record::View(name, _) => (self.views.contains_key(name), self.views.len(), GROUP_MEMBERS),
            Record::Config(_) => (true, 0, 1),
        };
        if known || count < most { Ok(()) } else { Err(format!("there are {most} of its kind already")) }
    }

    /// What the members of the group have in common: what most that live have; of two with as many, what the member has that is
    /// there for longest. `None`: nobody lives.
    pub fn digest(&self) -> Option<&Digest> {
        let mut found: HashMap<&Digest, (usize, i64)> = HashMap::new();
        for (member, since) in self.members.values() {
            let (count, first) = found.entry(&member.digest).or_insert((0, *since));
            *count += 1;
            *first = (*first).min(*since);
        }
        found.into_iter().max_by_key(|(_, (count, first))| (*count, -first)).map(|(digest, _)| digest)
    }

    /// What members of a group find that live and have that digest, with the revision at which each has written it.
    pub fn views_of(&self, digest: &Digest) -> impl Iterator<Item = (&String, &MemberView, i64)> {
        let lives = |name: &String, found: &MemberView| found.digest == *digest && self.members.contains_key(name);
        let views = self.views.iter().filter(move |(name, (found, _))| lives(name, found));
        views.map(|(name, (found, revision))| (name, found, *revision))
    }

    /// Whether what members find there is the same store gone on: what it has of `before`, read up to `revision`, is as it was, or was
    /// written since. One that was restored has what is not so any more.
    pub fn continues(&self, before: &Shared, revision: i64) -> bool {
        self.views.iter().all(|(name, (_, written))| {
            *written > revision || before.views.get(name).is_some_and(|(_, known)| known == written)
        })
    }

    /// Whether nearly every client has another server in the group. Routers that send clients to both would break their connections with
    /// every change of a path. Where only the configuration differs, as while a change goes from member to member, most have the same.
    pub fn has_other_key(&self, own: &Digest) -> bool {
        self.digest().is_some_and(|group| group.key != own.key)
    }

    /// What keeps a process with that digest out of the group, in words. `None`: it belongs there.
    pub fn stranger(&self, own: &Digest) -> Option<String> {
        let group = self.digest()?;
        let (what, then) = match (group.key == own.key, group.configuration == own.configuration) {
            (true, true) => return None,
            (true, false) => ("another configuration", "shares nothing with it"),
            (false, _) => ("another hash_key", "shares nothing with it, and is not announced"),
        };
        let others: Vec<&str> = self
            .members
            .iter()
            .filter(|(_, (member, _))| member.digest == *group)
            .map(|(name, _)| name.as_str())
            .take(4)
            .collect();
        Some(format!(
            "this process has {what} than the group ({}), so it {then}; give all the same services, servers, weights and hash_key, and \
             reload",
            others.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, created: i64) -> Entry {
        Entry { key: key.into(), value: Some(value.into()), created, revision: created }
    }

    fn member(name: &str, configuration: &str, key: &str, created: i64) -> Entry {
        let value = format!(
            r#"{{"version":"0.1.0","mode":"dispatcher","place":"p","digest":{{"configuration":"{configuration}","key":"{key}"}}}}"#
        );
        put(&format!("members/{name}"), &value, created)
    }

    #[test]
    fn what_is_wrong_is_noted_and_changes_nothing() {
        let mut shared = Shared::default();
        let right = r#"{"weight":{"set":3,"by":"d1","at_ms":1}}"#;
        shared.take(&put("orders/servers/web1", right, 2));
        let known = shared.clone();
        for (key, value) in [
            ("orders/servers/web1", "{\"weight\":{\"set\":99999,\"by\":\"d1\",\"at_ms\":2}}"),
            ("orders/servers/web1", "\u{0}\u{1}"),
            ("orders/servers/web 1", right),
            ("orders/denied/x", "{}"),
            ("nonsense", ""),
        ] {
            shared.take(&put(key, value, 3));
            assert_eq!((&shared.servers, &shared.denied), (&known.servers, &known.denied), "{key}");
        }
        assert_eq!(shared.bad.len(), 4, "{:?}", shared.bad);
        shared.take(&put("orders/servers/web1", right, 4));
        shared.take(&Entry { key: b"nonsense".to_vec(), value: None, created: 0, revision: 5 });
        assert_eq!(shared.bad.len(), 2, "{:?}", shared.bad);
        shared.take(&Entry { key: b"orders/servers/web1".to_vec(), value: None, created: 0, revision: 6 });
        assert!(shared.servers.is_empty());
        for at in 0..GROUP_MEMBERS as i64 + 5 {
            shared.take(&member(&format!("m{at}"), "c", "k", at));
            shared.take(&put(&format!("nonsense{at}"), "", at));
        }
        assert_eq!(shared.members.len(), GROUP_MEMBERS);
        assert!(shared.bad.len() <= GROUP_MEMBERS);
    }

    fn view(name: &str, configuration: &str, finds: &str, revision: i64) -> Entry {
        let value = format!(
            r#"{{"digest":{{"configuration":"{configuration}","key":"k"}},"view":{{"finds":{{"web":"{finds}"}}}}}}"#
        );
        put(&format!("views/{name}"), &value, revision)
    }

    #[test]
    fn views_count_of_members_that_live_and_have_the_same() {
        let mut shared = Shared::default();
        for (at, name) in ["d1", "d2", "d3"].into_iter().enumerate() {
            shared.take(&member(name, if name == "d3" { "b" } else { "a" }, "k", at as i64 + 1));
        }
        let own = Digest { configuration: "a".into(), key: "k".into() };
        let counted = |shared: &Shared| {
            shared
                .views_of(&own)
                .map(|(name, found, _)| format!("{name} {}", found.view.finds["web"]))
                .collect::<Vec<_>>()
        };
        for entry in
            [view("d1", "a", "u2", 4), view("d2", "a", "ud", 5), view("d3", "b", "d2", 6), view("d9", "a", "d2", 7)]
        {
            shared.take(&entry);
        }
        assert_eq!(counted(&shared), ["d1 u2", "d2 ud"], "d3 has another configuration, and d9 does not live");
        shared.take(&view("d2", "a", "x", 8));
        assert_eq!(counted(&shared), ["d1 u2", "d2 ud"], "what is wrong changes nothing");
        assert!(shared.bad["views/d2"].contains("'x' is not a finding"), "{:?}", shared.bad);
        shared.take(&Entry { key: b"views/d2".to_vec(), value: None, created: 0, revision: 9 });
        assert_eq!(counted(&shared), ["d1 u2"], "its lease has ended");
    }

    #[test]
    fn a_store_that_was_restored_is_told_by_what_it_has_of_before() {
        let with = |views: &[(&str, i64)]| {
            let mut shared = Shared::default();
            views.iter().for_each(|(name, revision)| shared.take(&view(name, "a", "u2", *revision)));
            shared
        };
        let before = with(&[("d1", 5), ("d2", 8)]);
        for (there, continues) in [
            (&[("d1", 5), ("d2", 8)][..], true),
            (&[("d1", 5)], true),
            (&[("d1", 5), ("d2", 11), ("d3", 12)], true),
            (&[("d1", 5), ("d2", 7)], false),
            (&[("d1", 5), ("d2", 8), ("d3", 3)], false),
        ] {
            assert_eq!(with(there).continues(&before, 10), continues, "{there:?}");
        }
    }

    #[test]
    fn the_group_has_what_most_members_have_and_who_has_something_else_stays_out() {
        let mut shared = Shared::default();
        let own = |configuration: &str, key: &str| Digest { configuration: configuration.into(), key: key.into() };
        assert_eq!(shared.stranger(&own("a", "k")), None);
        shared.take(&member("d1", "a", "k", 10));
        shared.take(&member("d2", "b", "k", 5));
        // One each: that of the one that is longer there.
        let said = shared.stranger(&own("a", "k")).expect("out");
        assert!(said.starts_with("this process has another configuration than the group (d2)"), "{said}");
        shared.take(&member("d3", "a", "k", 20));
        assert_eq!(shared.stranger(&own("a", "k")), None);
        assert!(shared.stranger(&own("b", "k")).is_some());
        assert!(!shared.has_other_key(&own("b", "k")) && shared.has_other_key(&own("a", "other")));
        let said = shared.stranger(&own("a", "other")).expect("out");
        assert!(said.starts_with("this process has another hash_key than the group (d1, d3)"), "{said}");
    }
}
