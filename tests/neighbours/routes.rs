//! Servers behind routers: who is next on the way to them, as routes change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::net::{LIMIT, Net};
use oneip::control::neighbours::Routes;
use oneip::model::Prefix;
use tokio::time::timeout;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn routes_are_followed_as_they_change() {
    let Some(net) = Net::new() else { return };
    net.here("route add 10.77.0.0/16 via 10.9.0.7");
    net.here("route add fd77::/64 via fd09::7");
    net.here("link add other type bridge");
    net.here("addr add 10.8.0.1/24 dev other");
    net.here("link set other up");
    let [far, near, far_v6] = ["10.77.0.1", "10.9.3.3", "fd77::1"].map(address);
    net.inside(async || {
        let mut routes = Routes::open(&["v0".to_owned()]).expect("a socket");
        let servers = [("far".to_owned(), far), ("near".to_owned(), near), ("six".to_owned(), far_v6)];
        let cluster = BTreeSet::from([Prefix::host(address("10.9.0.66"))]);
        routes.watch(&servers, cluster).await.expect("the kernel answers");
        assert_eq!(routes.wrong(), []);
        assert_eq!(
            [far, near, far_v6].map(|server| routes.via(server)),
            [Some(address("10.9.0.7")), Some(near), Some(address("fd09::7"))]
        );
        let names: Vec<String> = routes.neighbours().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["far's gateway", "near", "six's gateway"]);
        assert_eq!(routes.behind(address("10.9.0.7")).collect::<Vec<_>>(), [far]);

        net.here("route replace 10.77.0.0/16 via 10.9.0.8");
        timeout(LIMIT, routes.next()).await.expect("it is seen").expect("the kernel answers");
        assert_eq!(routes.via(far), Some(address("10.9.0.8")));

        // What is known stays while there is nothing better.
        for (route, why) in [
            ("replace 10.77.0.0/16 via 10.8.0.7 dev other", "the route goes via 10.8.0.7 dev other; add a route"),
            ("replace unreachable 10.77.0.0/16", "there is no route to it"),
            ("replace 10.77.0.0/16 via 10.9.0.66", "the route goes via 10.9.0.66, a cluster address"),
        ] {
            if route.contains("unreachable") || route.contains("66") {
                net.here("route flush 10.77.0.0/16");
            }
            net.here(&format!("route {route}"));
            let start = std::time::Instant::now();
            while !routes.wrong().iter().any(|wrong| wrong.to_string().contains(why)) {
                assert!(start.elapsed() < LIMIT, "{why}: {:?}", routes.wrong());
                timeout(LIMIT, routes.next()).await.expect("it is seen").expect("the kernel answers");
            }
            assert_eq!(routes.via(far), Some(address("10.9.0.8")));
        }

        net.here("route flush 10.77.0.0/16");
        net.here("route add 10.77.0.0/16 via 10.9.0.9");
        while routes.via(far) != Some(address("10.9.0.9")) {
            timeout(LIMIT, routes.next()).await.expect("it is seen").expect("the kernel answers");
        }
        assert_eq!(routes.wrong(), []);
    });
}
