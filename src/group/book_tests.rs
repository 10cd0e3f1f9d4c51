//! Orders of the group, those that wait, and those for one member: what counts.

use super::*;
use crate::group::memory;
use crate::limits::{GROUP_AHEAD, MAX_DENY_S, MAX_DRAIN_S, MAX_WEIGHT};
use proptest::prelude::*;

fn weight(set: u32, by: &str, at_ms: u64) -> ServerOrders {
    ServerOrders { weight: Some(Stamped { set: Some(set), by: by.into(), at_ms }), ..ServerOrders::default() }
}

fn disabled(set: bool, by: &str, at_ms: u64) -> ServerOrders {
    ServerOrders { disabled: Some(Stamped { set, by: by.into(), at_ms }), ..ServerOrders::default() }
}

fn book() -> Book {
    let remembered = Some(Remembered { name: "edge".into(), ..Remembered::default() });
    Book::open(("edge", "d1"), Digest::default(), remembered, (&Overrides::default(), &Denials::default()))
}

fn edit(server: &str, orders: ServerOrders) -> Edit {
    Edit::Server { server: server.into(), orders }
}

fn entry(server: &str, orders: &ServerOrders, revision: i64) -> Entry {
    let value = Some(serde_json::to_vec(orders).expect("JSON"));
    Entry { key: format!("orders/servers/{server}").into_bytes(), value, created: revision, revision }
}

fn weight_of(book: &Book, server: &str) -> Option<u32> {
    book.wanted().get("any", server).weight
}

#[test]
fn an_order_counts_at_once_and_until_the_store_says_otherwise() {
    let mut book = book();
    let id = book.enqueue(edit("web1", weight(3, "d1", 10)), true);
    assert_eq!(weight_of(&book, "web1"), Some(3));
    // The clock of the member that was told before is ahead.
    book.change(5, &[entry("web1", &weight(9, "d2", 1_000_000), 5)]);
    let late = book.enqueue(edit("web1", weight(4, "d1", 20)), true);
    assert_eq!(weight_of(&book, "web1"), Some(4), "what is ordered now counts now");
    assert_eq!(book.queue().len(), 1, "one of each place");
    book.told(id, true);
    assert_eq!(book.queue().len(), 1, "of the one before nothing is known any more");
    book.told(late, true);
    assert!(book.queue().is_empty());
    assert_eq!(weight_of(&book, "web1"), Some(4), "before it is heard of the change");
}

/// What another member does with what one has written.
fn carry(book: &mut Book, value: Option<Vec<u8>>, revision: i64) {
    book.change(revision, &[Entry { key: b"orders/servers/web1".to_vec(), value, created: 3, revision }]);
}

/// The replacing order of one member as another one, a restart, and a member that was away take it.
#[test]
fn a_time_from_the_far_future_neither_wins_nor_keeps_later_orders_out() {
    let years = |count: u64| count * 365 * 24 * 3_600_000;
    for (at_ms, counts) in
        [((1 << 42) - 1, false), (now_ms() + years(11), false), (now_ms() + years(10) - 60_000, true)]
    {
        let there = entry("web1", &weight(9, "x1", at_ms), 3);
        let (mut teller, mut other) = (book(), book());
        for book in [&mut teller, &mut other] {
            book.load(1, 3, std::slice::from_ref(&there));
            assert_eq!(weight_of(book, "web1"), counts.then_some(9), "{at_ms}");
            assert_eq!(book.shared.bad.is_empty(), counts, "{:?}", book.shared.bad);
        }
        let mut value = there.value;
        for (revision, set) in [(4, 4), (5, 5), (6, 6)] {
            let id = teller.enqueue(edit("web1", weight(set, "d1", now_ms())), true);
            let (merged, _) = teller.queue()[0].edit.merge(value.as_deref(), true);
            let Merged::Put(written) = merged else { panic!("{merged:?}") };
            teller.told(id, true);
            value = Some(written);
            for book in [&mut teller, &mut other] {
                carry(book, value.clone(), revision);
                assert!(book.shared.bad.is_empty(), "{:?}", book.shared.bad);
                assert_eq!(weight_of(book, "web1"), Some(set));
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("oneip.group.json");
        memory::save(&file, &teller.remembered()).expect("saved");
        let read = memory::load(&file, "edge").expect("it is not damaged");
        assert_eq!(read, Some(teller.remembered()));
    }
}

#[test]
fn a_wrong_order_on_disk_takes_no_other_one_with_it() {
    let mut book = book();
    book.load(1, 5, &[entry("web1", &weight(3, "d1", 10), 4), entry("web2", &weight(5, "d2", 30), 5)]);
    book.set_local("web3", &disabled(true, "d1", 11));
    let mut remembered = book.remembered();
    let right = remembered.clone();
    remembered.servers.insert("web9".into(), weight(1, "d1", 1 << 42));
    remembered.local.insert("web9".into(), weight(1 << 20, "d1", 1));
    let wrong = DenyOrder { until: Some(u64::MAX), by: "d1".into(), at_ms: 1 };
    let prefix = "198.51.100.0/24".parse().expect("a prefix");
    remembered.denied.push(DeniedHere { prefix, service: None, order: wrong.clone() });
    remembered.local_denied.push(DeniedHere { prefix, service: None, order: wrong });
    remembered.queue.push(Queued { edit: edit("web9", weight(1, "d1", 1 << 42)), is_new: false, id: 0 });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("oneip.group.json");
    memory::save(&file, &remembered).expect("saved");
    assert_eq!(memory::load(&file, "edge"), Ok(Some(right)));
}

#[test]
fn what_waited_gives_way_to_what_others_ordered_later() {
    let mut book = book();
    book.enqueue(edit("web1", weight(3, "d1", 10)), true);
    book.enqueue(edit("web2", weight(3, "d1", 10)), true);
    book.lose();
    book.load(1, 7, &[entry("web1", &weight(8, "d2", 9), 6), entry("web2", &weight(8, "d2", 11), 7)]);
    assert_eq!((weight_of(&book, "web1"), weight_of(&book, "web2")), (Some(3), Some(8)));
    let merge = |queued: &Queued, there: ServerOrders| {
        queued.edit.merge(Some(&serde_json::to_vec(&there).expect("JSON")), queued.is_new)
    };
    let (merged, other) = merge(&book.queue()[0], weight(8, "d2", 9));
    assert!(matches!(merged, Merged::Put(_)) && other.as_deref() == Some("d2"));
    assert_eq!(merge(&book.queue()[1], weight(8, "d2", 11)), (Merged::Stays, Some("d2".to_owned())));
}

#[test]
fn a_store_that_went_back_is_told_what_it_lost() {
    let prefix: Prefix = "198.51.100.0/24".parse().expect("a prefix");
    let deny = |at_ms| DenyOrder { until: None, by: "d1".into(), at_ms };
    let denied = |at_ms, revision| Entry {
        key: Place::Denied(prefix, None).key().into_bytes(),
        value: Some(serde_json::to_vec(&deny(at_ms)).expect("JSON")),
        created: revision,
        revision,
    };
    let mut book = book();
    book.load(1, 20, &[entry("web1", &weight(3, "d1", 10), 3), entry("web2", &weight(5, "d2", 30), 20)]);
    // A later time is no other store.
    book.load(1, 21, &[entry("web1", &weight(3, "d1", 10), 3), entry("web2", &weight(6, "d2", 31), 21)]);
    assert_eq!((book.restored, book.queue().len()), (0, 0));
    // As it was before web2 was ordered, with a prefix that was denied then.
    book.load(1, 10, &[entry("web1", &weight(3, "d1", 10), 3), denied(5, 9)]);
    assert_eq!(book.restored, 1);
    let edits: Vec<&Edit> = book.queue().iter().map(|queued| &queued.edit).collect();
    assert_eq!(edits[0], &edit("web2", weight(6, "d2", 31)), "as it was ordered, and by whom");
    assert!(matches!(edits[1], Edit::Undeny { .. }) && edits.len() == 2);
    assert_eq!((weight_of(&book, "web1"), weight_of(&book, "web2")), (Some(3), Some(6)));
    assert!(book.wanted_denied().0.is_empty(), "no table is wrong meanwhile");
    // Another store, which has nothing at all.
    book.load(2, 1000, &[]);
    assert_eq!((weight_of(&book, "web1"), weight_of(&book, "web2")), (Some(3), Some(6)));
    // A restart knows it all.
    let remembered = book.remembered();
    let text = serde_json::to_string(&remembered).expect("JSON");
    let read: Remembered = serde_json::from_str(&text).expect("as written");
    let again = Book::open(("edge", "d1"), Digest::default(), Some(read), (&Overrides::default(), &Denials::default()));
    assert_eq!(again.wanted(), book.wanted());
    assert_eq!(again.queue().len(), book.queue().len());
}

#[test]
fn an_order_for_one_member_counts_over_the_groups_until_it_says_the_same() {
    let mut book = book();
    book.load(1, 5, &[entry("web1", &weight(3, "d2", 10), 5)]);
    book.set_local("web1", &disabled(true, "d1", 11));
    let set = book.wanted().get("any", "web1");
    assert!(set.disabled && set.weight == Some(3), "one thing of its own, and the rest of the group");
    book.set_local("web1", &disabled(false, "d1", 12));
    assert!(book.local().is_empty());
    book.set_local("web1", &weight(9, "d1", 13));
    assert_eq!(weight_of(&book, "web1"), Some(9));
    // Who speaks for all speaks for this one too.
    book.enqueue(edit("web1", weight(4, "d1", 14)), true);
    assert!(book.local().is_empty());
    assert_eq!(weight_of(&book, "web1"), Some(4));
}

#[test]
fn what_was_ordered_before_there_was_a_group_counts_here_only() {
    let before = Overrides::new([("web1".to_owned(), Override { weight: Some(2), ..Override::default() })].into(), []);
    let mut book = Book::open(("edge", "d1"), Digest::default(), None, (&before, &Denials::default()));
    book.load(1, 5, &[]);
    assert_eq!(book.wanted(), before);
    assert!(book.queue().is_empty() && book.local().contains_key("web1"));
}

#[test]
fn an_order_for_one_service_stands_beside_those_for_all() {
    let mut book = book();
    book.load(1, 5, &[entry("web1", &weight(3, "d2", 10), 4), entry("web1@web", &weight(4, "d2", 11), 5)]);
    let of = |book: &Book| ["web", "mail"].map(|service| book.wanted().get(service, "web1").weight);
    assert_eq!(of(&book), [Some(4), Some(3)]);
    // For all: where it stood apart, too.
    book.enqueue(edit("web1", weight(7, "d1", 1)), true);
    assert_eq!(of(&book), [Some(7), Some(7)]);
    book.enqueue(edit("web1@mail", weight(8, "d1", 1)), true);
    assert_eq!(of(&book), [Some(7), Some(8)]);
}

fn drained(until: u64, by: &str, at_ms: u64) -> ServerOrders {
    ServerOrders { drained_until: Some(Stamped { set: Some(until), by: by.into(), at_ms }), ..ServerOrders::default() }
}

fn drained_for(book: &Book, server: &str) -> i64 {
    book.wanted().get("any", server).drained_until.expect("it is drained") as i64 - (now_ms() / 1000) as i64
}

const HOUR_MS: i64 = 3_600_000;

/// A clock that is so far ahead of this one, in milliseconds since 1970.
fn clock(ahead_ms: i64) -> u64 {
    now_ms().checked_add_signed(ahead_ms).expect("after 1970")
}

#[test]
fn an_order_lasts_as_long_as_it_was_given_for_whatever_clocks_say() {
    for ahead in [-HOUR_MS, 0, HOUR_MS] {
        let at_ms = clock(ahead);
        let order = drained(at_ms / 1000 + 300, "d2", at_ms);
        let mut heard = book();
        heard.load(1, 3, &[]);
        heard.change(4, &[entry("web1", &order, 4)]);
        assert!((298..=301).contains(&drained_for(&heard, "web1")), "{ahead}: {}", drained_for(&heard, "web1"));
        // It is read again, and after a restart.
        let text = serde_json::to_string(&heard.remembered()).expect("JSON");
        let read = Some(serde_json::from_str(&text).expect("as written"));
        let orders = (&Overrides::default(), &Denials::default());
        let mut again = Book::open(("edge", "d1"), Digest::default(), read, orders);
        again.load(1, 5, &[entry("web1", &order, 4)]);
        assert_eq!(again.wanted(), heard.wanted(), "{ahead}");
        // Whoever hears of it only now goes by clocks.
        let mut late = book();
        late.load(1, 5, &[entry("web1", &order, 4)]);
        let left = drained_for(&late, "web1") - ahead / 1000;
        assert!((298..=301).contains(&left), "{ahead}: {left}");
    }
}

#[test]
fn an_order_that_replaces_one_of_a_clock_that_is_ahead_lasts_no_longer_and_no_shorter() {
    let mut book = book();
    book.load(1, 3, &[entry("web1", &drained(clock(HOUR_MS) / 1000 + 300, "d2", clock(HOUR_MS)), 3)]);
    let at_ms = now_ms();
    book.enqueue(edit("web1", drained(at_ms / 1000 + 60, "d1", at_ms)), true);
    assert_eq!(book.wanted().get("any", "web1").drained_until, Some(at_ms / 1000 + 60), "here, as it was given");
    let Edit::Server { orders, .. } = book.queue()[0].edit.clone() else { panic!("of a server") };
    let told = orders.drained_until.expect("it is drained");
    assert!(told.at_ms > clock(HOUR_MS - 60_000), "it is the later one");
    assert_eq!(told.set.expect("until") - told.at_ms / 1000, 60, "and lasts as long");
}

#[test]
fn a_wrong_clock_takes_no_denial_out_of_the_store() {
    let prefix: Prefix = "198.51.100.0/24".parse().expect("a prefix");
    let denied = |ahead_ms: i64, lasts: u64| {
        let order = DenyOrder { until: Some(clock(ahead_ms) / 1000 + lasts), by: "d2".into(), at_ms: clock(ahead_ms) };
        let value = Some(serde_json::to_vec(&order).expect("JSON"));
        Entry { key: Place::Denied(prefix, None).key().into_bytes(), value, created: 4, revision: 4 }
    };
    // Given just now, by a clock that is behind.
    let mut heard = book();
    heard.load(1, 3, &[]);
    heard.change(4, &[denied(-HOUR_MS, 600)]);
    assert_eq!((heard.over().len(), heard.wanted_denied().0.len()), (0, 1));
    let mut over = book();
    over.load(1, 3, &[]);
    over.change(4, &[denied(-HOUR_MS, 0)]);
    assert_eq!((over.over().len(), over.wanted_denied().0.len()), (1, 0));
    // Read, and over by this clock: it may be over, but stays in the store for a day.
    for (ahead_ms, removed) in [(-HOUR_MS, 0), (-25 * HOUR_MS, 1)] {
        let mut read = book();
        read.load(1, 5, &[denied(ahead_ms, 600)]);
        assert_eq!((read.over().len(), read.wanted_denied().0.len()), (removed, 0), "{ahead_ms}");
    }
}

#[test]
fn what_is_not_ordered_any_more_is_not_remembered_as_heard() {
    let mut book = book();
    book.load(1, 3, &[]);
    for at_ms in 1..50 {
        book.change(at_ms as i64 + 3, &[entry("web1", &drained(9, "d2", at_ms), at_ms as i64 + 3)]);
    }
    assert_eq!(
        serde_json::to_value(book.remembered().heard).expect("JSON")["d2"].as_object().map(|all| all.len()),
        Some(1)
    );
}

#[test]
fn a_member_that_is_alone_changes_its_key_and_stays_the_group() {
    let digest = |key: &str| Digest { configuration: "c".into(), key: key.into() };
    let mut book = book();
    book.set_digest(digest("k"));
    let value = r#"{"version":"0.1.0","mode":"dispatcher","place":"p","digest":{"configuration":"c","key":"k"}}"#;
    let member = |name: &str, created| Entry {
        key: Place::Member(name.into()).key().into_bytes(),
        value: Some(value.into()),
        created,
        revision: created,
    };
    book.load(1, 3, &[member("d1", 3)]);
    book.set_digest(digest("other"));
    assert_eq!((book.stranger(), book.has_other_key()), (None, false));
    book.change(4, &[member("d2", 4), member("d3", 4)]);
    assert!(book.has_other_key());
}

/// What anybody may have written there: nonsense, and what is like a record in all but its bounds.
fn any_entry() -> impl Strategy<Value = Entry> {
    let time = || prop_oneof![0u64..3, any::<u64>(), (0u64..1 << 40).prop_map(|ms| now_ms() - 20_000 + ms % 40_000)];
    let until = || prop_oneof![any::<u64>(), time().prop_map(|ms| ms / 1000)];
    let by = || prop_oneof!["[a-c]", "\\PC{0,70}"];
    let drained = (until(), by(), time())
        .prop_map(|(set, by, at_ms)| format!(r#"{{"drained_until":{{"set":{set},"by":{by:?},"at_ms":{at_ms}}}}}"#));
    let weight = (any::<u32>(), by(), time())
        .prop_map(|(set, by, at_ms)| format!(r#"{{"weight":{{"set":{set},"by":{by:?},"at_ms":{at_ms}}}}}"#));
    let denied = (until(), by(), time())
        .prop_map(|(until, by, at_ms)| format!(r#"{{"until":{until},"by":{by:?},"at_ms":{at_ms}}}"#));
    let member = ("[a-c]", "[a-c]").prop_map(|(one, other)| {
        format!(
            r#"{{"version":"1","mode":"dispatcher","place":"p","digest":{{"configuration":"{one}","key":"{other}"}}}}"#
        )
    });
    let text = prop_oneof![drained, weight, denied, member, "\\PC*"].prop_map(String::into_bytes);
    let value = prop_oneof![4 => text, 1 => proptest::collection::vec(any::<u8>(), 0..64)];
    let key = prop_oneof![
        "orders/servers/web[1-3](@(web|mail))?",
        "orders/denied/198\\.51\\.100\\.[0-3](@web)?",
        "orders/denied/2001:db8::/(32|48|129)",
        "members/d[1-3]",
        "views/d[1-3]",
        "config",
        "\\PC{0,100}",
    ]
    .prop_map(String::into_bytes);
    let key = prop_oneof![9 => key, 1 => proptest::collection::vec(any::<u8>(), 0..100)];
    (key, proptest::option::weighted(0.9, value), any::<i64>(), any::<i64>())
        .prop_map(|(key, value, created, revision)| Entry { key, value, created, revision })
}

fn is_within_bounds(book: &Book) -> Result<(), TestCaseError> {
    let latest_s = (now_ms() + GROUP_AHEAD.as_millis() as u64) / 1000 + 2;
    let wanted = book.wanted();
    for set in wanted.all() {
        prop_assert!(set.weight.is_none_or(|weight| weight <= MAX_WEIGHT), "{set:?}");
        prop_assert!(set.drained_until.is_none_or(|until| until <= latest_s + u64::from(MAX_DRAIN_S)), "{set:?}");
    }
    let denied = book.wanted_denied().0;
    prop_assert!(denied.len() <= MAX_DENIED);
    prop_assert!(denied.iter().all(|it| it.until.is_none_or(|until| until <= latest_s + MAX_DENY_S)), "{denied:?}");
    Ok(())
}

fn orders() -> impl Strategy<Value = ServerOrders> {
    let stamp = || (0u64..6, "[a-c]");
    let drained = proptest::option::of((proptest::option::of(0u64..4), stamp()));
    let disabled = proptest::option::of((any::<bool>(), stamp()));
    let weight = proptest::option::of((proptest::option::of(0u32..4), stamp()));
    (drained, disabled, weight).prop_map(|(drained, disabled, weight)| ServerOrders {
        drained_until: drained.map(|(set, (at_ms, by))| Stamped { set, by, at_ms }),
        disabled: disabled.map(|(set, (at_ms, by))| Stamped { set, by, at_ms }),
        weight: weight.map(|(set, (at_ms, by))| Stamped { set, by, at_ms }),
    })
}

/// Times and names tell orders apart: no two of one member are of one moment.
fn comparable(all: &[ServerOrders]) -> bool {
    let same = |one: &ServerOrders, other: &ServerOrders| {
        fn clash<T: PartialEq>(one: &Option<Stamped<T>>, other: &Option<Stamped<T>>) -> bool {
            matches!((one, other), (Some(one), Some(other)) if (one.at_ms, &one.by) == (other.at_ms, &other.by) && one.set != other.set)
        }
        clash(&one.drained_until, &other.drained_until)
            || clash(&one.disabled, &other.disabled)
            || clash(&one.weight, &other.weight)
    };
    all.iter().enumerate().all(|(at, one)| all[at..].iter().all(|other| !same(one, other)))
}

proptest! {
    /// Whoever can write to the store neither ends this process nor makes it use what no operator could order; nor does that over a restart.
    #[test]
    fn whatever_the_store_has_nothing_is_beyond_its_bounds(
        loaded in proptest::collection::vec(any_entry(), 0..12),
        changes in proptest::collection::vec((any::<i64>(), proptest::collection::vec(any_entry(), 0..4)), 0..6),
        (cluster, revision) in any::<(u64, i64)>(),
        again in proptest::collection::vec(any_entry(), 0..12),
    ) {
        let mut book = book();
        book.load(cluster, revision, &loaded);
        is_within_bounds(&book)?;
        for (at, (revision, entries)) in changes.iter().enumerate() {
            book.change(*revision, entries);
            book.enqueue(edit("web1", weight(at as u32, "d1", now_ms())), true);
            book.over().into_iter().for_each(|edit| _ = book.enqueue(edit, false));
            let _ = (book.stranger(), book.views().count());
            is_within_bounds(&book)?;
            prop_assert_eq!(weight_of(&book, "web1"), Some(at as u32), "who orders now is followed");
        }
        book.lose();
        book.load(cluster, revision.wrapping_add(1), &again);
        is_within_bounds(&book)?;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("oneip.group.json");
        memory::save(&file, &book.remembered()).expect("saved");
        let read = memory::load(&file, "edge").expect("it is not damaged").expect("it is of this group");
        prop_assert_eq!(read.servers, book.remembered().servers);
        let orders = (&Overrides::default(), &Denials::default());
        is_within_bounds(&Book::open(("edge", "d1"), Digest::default(), Some(book.remembered()), orders))?;
    }

    /// In whichever order members tell the store what waited, it has the same in the end.
    #[test]
    fn what_waited_is_told_in_any_order(all in proptest::collection::vec(orders(), 1..5), rotate in 0usize..5) {
        prop_assume!(comparable(&all));
        let told = |all: &[ServerOrders]| {
            let mut value: Option<Vec<u8>> = None;
            for orders in all {
                if let (Merged::Put(new), _) = edit("web1", orders.clone()).merge(value.as_deref(), false) {
                    value = Some(new);
                }
            }
            value.map(|value| ServerOrders::read(&value).expect("as written"))
        };
        let mut other = all.clone();
        other.rotate_left(rotate % all.len());
        other.reverse();
        prop_assert_eq!(told(&all), told(&other));
    }
}
