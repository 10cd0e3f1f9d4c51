//! A plan that is worked out aside and taken over later, as one that is taken over at once.

use crate::cases::HOUR;
use crate::fixture::{Fixture, SECOND};
use crate::restart::fate;
use oneip::table::build::State;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Sets states while the plan is worked out.
type Meanwhile = fn(&mut Fixture);

fn heavier(fixture: &mut Fixture) {
    fixture.plan.services[0].servers[0].weight = 3;
    fixture.plan.services[0].drain = HOUR;
}

#[test]
fn a_plan_that_was_worked_out_aside_is_as_one_that_was_taken_over_at_once() {
    let cases: [Meanwhile; 4] = [
        |_| {},
        |fixture| fixture.set(1, State::Draining, HOUR),
        |fixture| fixture.set(1, State::Down, HOUR),
        |fixture| {
            fixture.set(1, State::Draining, HOUR);
            fixture.set(1, State::Active, HOUR);
        },
    ];
    for meanwhile in cases {
        let [mut aside, mut at_once] = [Fixture::plain(3), Fixture::plain(3)];
        [&mut aside, &mut at_once].into_iter().for_each(heavier);
        let renewal = aside.cluster.renewal(&aside.plan, aside.now);
        for fixture in [&mut aside, &mut at_once] {
            fixture.wait(Duration::from_secs(5));
            meanwhile(fixture);
            fixture.now += 7 * SECOND;
        }
        assert!(aside.cluster.can_adopt(&renewal));
        aside.cluster.adopt(renewal, &aside.plan, aside.now);
        at_once.cluster.renew(&at_once.plan, at_once.now);
        assert_eq!(aside.cluster.moving(0), at_once.cluster.moving(0));
        // Not compared: since when flows without a beginning are learned. Aside, that is since it was worked out.
        let whose = |fixture: &Fixture, client: Ipv4Addr| {
            let (owner, kept) = fate(&fixture.cluster.service(0), client);
            (owner, kept.map(|(previous, ..)| previous))
        };
        for client in (0..500u32).map(|number| Ipv4Addr::from_bits(0xc633_6400 + number * 7919)) {
            assert_eq!(whose(&aside, client), whose(&at_once, client), "{client}");
        }
        // It counts from when it was taken over.
        for fixture in [&mut aside, &mut at_once] {
            fixture.wait(HOUR - Duration::from_secs(1));
            assert!(fixture.cluster.moving(0) > 0);
            fixture.wait(Duration::from_secs(1));
            assert_eq!(fixture.cluster.moving(0), 0);
        }
    }
}

/// It was worked out for another one than is in use.
#[test]
fn a_plan_that_came_too_late_is_not_taken_over() {
    let mut fixture = Fixture::plain(3);
    heavier(&mut fixture);
    let renewal = fixture.cluster.renewal(&fixture.plan, fixture.now);
    fixture.add(1, HOUR);
    assert!(!fixture.cluster.can_adopt(&renewal));
}
