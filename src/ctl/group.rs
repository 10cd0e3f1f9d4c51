//! `oneip ctl group`: the members of a group, and what they share.

use super::table;
use super::units::span;
use crate::admin::group::{FindsStatus, GroupStatus, GroupSummary, HealthStatus, MemberStatus, OrderStatus};
use std::fmt::Write;

/// How many wrong values are named.
const SHOWN: usize = 5;

/// How this process stands to its group, in a line; what is wrong follows in lines of its own.
pub fn line(summary: &GroupSummary) -> String {
    let GroupSummary { name, member, connected, since_s, why, outside, alive, queued, bad, .. } = summary;
    let mut text = format!("group {name}: ");
    match (outside, connected) {
        (Some(_), _) => _ = write!(text, "{member} is OUTSIDE"),
        (None, true) => _ = write!(text, "{member} is one of {alive} members"),
        (None, false) => _ = write!(text, "the store CANNOT BE REACHED for {}", span(*since_s)),
    }
    if *queued > 0 {
        let _ = write!(text, ", {queued} orders wait for the store");
    }
    if let Some(published @ 1..) = summary.published {
        let _ = write!(text, ", services of generation {published}");
    }
    text.push('\n');
    if let Some(outside) = outside {
        let _ = writeln!(text, "  NOTE: {outside}");
    }
    if let Some(why) = why {
        let _ = writeln!(text, "  NOTE: etcd: {why}; the last known state is used");
    }
    summary.health.iter().for_each(|health| text += &of_health(health));
    for bad in bad.iter().take(SHOWN) {
        let _ = writeln!(text, "  NOTE: {} in the store is not used: {}", bad.key, bad.why);
    }
    if bad.len() > SHOWN {
        let _ = writeln!(text, "  NOTE: and {} more in the store", bad.len() - SHOWN);
    }
    text
}

fn of_health(HealthStatus { stance, since_s, views, checks, of, differs }: &HealthStatus) -> String {
    let since = span(*since_s);
    let mut text = match stance.as_str() {
        "together" => {
            format!("  health: the majority of {views} members decides; this one checks {checks} of {of} servers")
        }
        "waiting" => format!(
            "  NOTE: health: the findings of the other members are not known for {since}: servers keep their state, \
             unless a check of this member changes"
        ),
        _ => format!("  NOTE: health: for {since} only this member's own checks decide"),
    };
    if *differs > 0 {
        let _ = write!(text, "; its own checks DIFFER for {differs}");
    }
    text + "\n"
}

/// The line, the store, the members, the orders.
pub fn text(status: &GroupStatus) -> String {
    let GroupStatus { summary, etcd, members, orders } = status;
    let mut text = line(summary);
    let revision = summary.revision.map_or("never read".to_owned(), |revision| format!("revision {revision}"));
    let _ = writeln!(
        text,
        "etcd {}: {revision}, lost {} times, restored {} times",
        etcd.join(", "),
        summary.lost,
        summary.restored
    );
    let own = summary.member.as_str();
    const TITLES: [&str; 7] = ["member", "mode", "version", "configuration", "table", "behind", "announced"];
    let [member, mode, version, configuration, table, behind, announced] = TITLES;
    let mut shown = match summary.health.is_some() {
        true => table::new([member, mode, version, configuration, table, behind, announced, "checks", "not up"], 4..5),
        false => table::new(TITLES, 4..5),
    };
    let columns = if summary.health.is_some() { 9 } else { TITLES.len() };
    members.iter().for_each(|member| _ = shown.add_row(&of_member(member, own)[..columns]));
    let _ = writeln!(text, "\n{shown}");
    if !orders.is_empty() {
        let mut shown = table::new(["server", "order", "given to", "ago", "counts for"], 3..4);
        orders.iter().for_each(|order| _ = shown.add_row(of_order(order)));
        let _ = writeln!(text, "\n{shown}");
    }
    text.truncate(text.trim_end().len());
    text
}

fn of_member(member: &MemberStatus, own: &str) -> [String; 9] {
    let MemberStatus {
        member: name,
        version,
        mode,
        belongs,
        generation,
        behind,
        announced,
        services,
        finds,
        published,
    } = member;
    let unknown = || "?".to_owned();
    let announced = announced.zip(*services).map_or_else(unknown, |(announced, all)| format!("{announced} of {all}"));
    [
        if name == own { format!("{name} (this one)") } else { name.clone() },
        mode.clone(),
        version.clone(),
        match (belongs, published) {
            (true, None | Some(0)) => "as the group".to_owned(),
            (true, Some(published)) => format!("generation {published}"),
            (false, None | Some(0)) => "ANOTHER".to_owned(),
            (false, Some(published)) => format!("ANOTHER: generation {published}"),
        },
        generation.map_or_else(unknown, |generation| generation.to_string()),
        behind.map_or_else(unknown, |behind| if behind == 0 { "no".to_owned() } else { format!("{behind} orders") }),
        announced,
        finds.as_ref().map_or_else(unknown, |FindsStatus { checks, .. }| checks.to_string()),
        finds.as_ref().map_or_else(unknown, |FindsStatus { out, cut_off, .. }| match cut_off {
            true => "CUT OFF".to_owned(),
            false => out.to_string(),
        }),
    ]
}

fn of_order(order: &OrderStatus) -> [String; 5] {
    let OrderStatus { server, order, by, age_s, counts } = order;
    let counts = match counts.as_str() {
        "group" => "all members",
        "queued" => "this one, until the store can be reached",
        _ => "this one (--local)",
    };
    [server.clone(), order.clone(), by.clone(), span(*age_s), counts.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::group::BadValue;

    #[test]
    fn members_and_orders_are_shown_and_what_is_wrong() {
        let bad = vec![BadValue { key: "orders/servers/web1".into(), why: "unknown field `x`".into() }; SHOWN + 2];
        let summary = GroupSummary {
            name: "edge".into(),
            member: "d1".into(),
            connected: true,
            since_s: 5.0,
            why: None,
            outside: None,
            other_key: false,
            living: Vec::new(),
            alive: 2,
            revision: Some(17),
            queued: 0,
            lost: 1,
            restored: 0,
            bad: Vec::new(),
            health: None,
            published: None,
        };
        assert_eq!(line(&summary), "group edge: d1 is one of 2 members\n");
        let why = Some("connection refused".to_owned());
        let lost = GroupSummary { connected: false, why, queued: 3, bad, ..summary.clone() };
        let said = line(&lost);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "group edge: the store CANNOT BE REACHED for 5.0 s, 3 orders wait for the store");
        assert_eq!(lines[1], "  NOTE: etcd: connection refused; the last known state is used");
        assert_eq!(lines[2], "  NOTE: orders/servers/web1 in the store is not used: unknown field `x`");
        assert_eq!(lines.last(), Some(&"  NOTE: and 2 more in the store"));
        let health = |stance: &str, differs| HealthStatus {
            stance: stance.into(),
            since_s: 5.0,
            views: 3,
            checks: 20,
            of: 60,
            differs,
        };
        for (health, said) in [
            (health("together", 0), "  health: the majority of 3 members decides; this one checks 20 of 60 servers\n"),
            (
                health("together", 2),
                "  health: the majority of 3 members decides; this one checks 20 of 60 servers; its own checks DIFFER \
                 for 2\n",
            ),
            (
                health("waiting", 0),
                "  NOTE: health: the findings of the other members are not known for 5.0 s: servers keep their state, \
                 unless a check of this member changes\n",
            ),
            (health("alone", 0), "  NOTE: health: for 5.0 s only this member's own checks decide\n"),
        ] {
            let line = line(&GroupSummary { health: Some(health), ..summary.clone() });
            assert_eq!(line.split_once('\n').map(|(_, rest)| rest), Some(said));
        }
        let member = |name: &str, belongs, behind| MemberStatus {
            member: name.into(),
            version: "0.1.0".into(),
            mode: "dispatcher".into(),
            belongs,
            generation: behind,
            behind: behind.map(|behind| behind as usize),
            announced: None,
            services: None,
            finds: None,
            published: None,
        };
        let order = OrderStatus {
            server: "web1".into(),
            order: "drained".into(),
            by: "d2".into(),
            age_s: 61.0,
            counts: "group".into(),
        };
        let members = vec![member("d1", true, Some(0)), member("d2", true, Some(4)), member("d3", false, None)];
        let said = text(&GroupStatus {
            summary: summary.clone(),
            etcd: vec!["http://a:1".into()],
            members,
            orders: vec![order],
        });
        for part in [
            "d1 (this one)",
            "4 orders",
            "ANOTHER",
            "drained",
            "all members",
            "etcd http://a:1: revision 17, lost 1 times",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("checks"), "{said}");
        let finds = |checks, out, cut_off| Some(FindsStatus { checks, out, cut_off });
        let members = vec![
            MemberStatus { finds: finds(340, 2, false), ..member("d1", true, Some(0)) },
            MemberStatus { finds: finds(0, 0, true), ..member("d2", true, Some(0)) },
        ];
        let summary = GroupSummary { health: Some(health("together", 0)), ..summary };
        let said = text(&GroupStatus { summary, etcd: Vec::new(), members, orders: Vec::new() });
        let rows: Vec<&str> = said.lines().rev().take(3).map(str::trim_end).collect();
        assert!(rows[2].ends_with("checks  not up") && rows[0].ends_with("CUT OFF"), "{said}");
        assert!(rows[1].contains("340"), "{said}");
    }
}
