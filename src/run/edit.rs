//! What an order that was given here is to the group.

use crate::admin::order::Order;
use crate::control::membership::Membership;
use crate::group::book::Edit;
use crate::group::record::{DenyOrder, ServerOrders, Stamped, now_ms};

/// What a group is told of an order. A server has by now what was ordered.
pub(super) fn edit(order: &Order, membership: &Membership, member: &str) -> Option<Edit> {
    let at_ms = now_ms();
    let by = || member.to_owned();
    let mut orders = ServerOrders::default();
    let of = |server: &str, service: &Option<String>| {
        let all = membership.orders().0;
        match service {
            Some(service) => all.get(service, server),
            None => all.everywhere().get(server).copied().unwrap_or_default(),
        }
    };
    let (server, service) = match order {
        Order::Drain { server, service, .. } | Order::Undrain { server, service } => {
            orders.drained_until = Some(Stamped { set: of(server, service).drained_until, by: by(), at_ms });
            (server, service)
        }
        Order::Disable { server, service, .. } | Order::Enable { server, service } => {
            orders.disabled = Some(Stamped { set: of(server, service).disabled, by: by(), at_ms });
            (server, service)
        }
        Order::Weight { server, service, .. } => {
            orders.weight = Some(Stamped { set: of(server, service).weight, by: by(), at_ms });
            (server, service)
        }
        Order::Deny { prefix, service, .. } => {
            let known = membership.denials().0.iter().find(|it| it.prefix == *prefix && it.service == *service)?;
            let order = DenyOrder { until: known.until, by: by(), at_ms };
            return Some(Edit::Deny { prefix: *prefix, service: service.clone(), order });
        }
        Order::Undeny { prefix, service } => {
            return Some(Edit::Undeny { prefix: *prefix, service: service.clone(), at_ms });
        }
        _ => return None,
    };
    let subject = service.as_ref().map_or(server.clone(), |service| format!("{server}@{service}"));
    Some(Edit::Server { server: subject, orders })
}
