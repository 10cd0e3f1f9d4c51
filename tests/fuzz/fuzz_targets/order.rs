//! Any bytes as an order at the admin socket: refused, or it says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::admin::order::Order;

fuzz_target!(|body: &[u8]| {
    let Ok(order) = serde_json::from_slice::<Order>(body) else { return };
    let text = serde_json::to_string(&order).expect("an order is JSON");
    assert_eq!(serde_json::from_str::<Order>(&text).expect("it was taken before"), order);
    let _ = (order.takes(), order.is_shared());
});
