//! The section of the DPDK engine.

use crate::{VALID, loaded};
use oneip::model::{Dpdk, Exception};

#[test]
fn the_dpdk_section_has_its_defaults() {
    let dpdk = |section: &str| {
        let text = VALID.replacen("engine = \"af_xdp\"", "engine = \"dpdk\"", 1) + "[dpdk]\n" + section;
        loaded(&text).plan.dispatcher.unwrap().dpdk.unwrap()
    };
    let mut expected = Dpdk {
        ports: vec!["0000:03:00.0".into()],
        eal: vec![],
        // As many as there are cores listed.
        queues: 2,
        descriptors: 1024,
        mbufs: None,
        mtu: 1500,
        exception: Exception::Tap,
    };
    assert_eq!(dpdk("port = \"0000:03:00.0\""), expected);
    expected.ports = vec!["net_af_packet0,iface=eth1".into()];
    // This device leaves its frames to the kernel too.
    expected.exception = Exception::Kernel;
    assert_eq!(dpdk("port = \"net_af_packet0,iface=eth1\""), expected);
    expected = Dpdk {
        eal: vec!["--no-huge".into(), "-m".into(), "256".into()],
        descriptors: 512,
        mbufs: Some(4095),
        mtu: 9000,
        exception: Exception::None,
        ..expected
    };
    let all = "port = \"net_af_packet0,iface=eth1\"\neal = [\"--no-huge\", \"-m\", \"256\"]\nqueues = 2\n\
               descriptors = 512\nmbufs = 4095\nmtu = 9000\nexception = \"none\"\n";
    assert_eq!(dpdk(all), expected);
    let sections = "[[dispatcher.interface]]\nname = \"t1\"\n[[dispatcher.interface]]\nname = \"t2\"\n";
    let of_one = "interface = \"eth1\"\nengine = \"af_xdp\"\ncores = [2, 3]\n";
    let several = VALID.replacen(of_one, &format!("engine = \"dpdk\"\ncores = [2, 3]\n{sections}"), 1);
    let pci = (["0000:03:00.0", "0000:03:00.1"], Exception::Tap);
    for (ports, exception) in [pci, (["net_af_packet0", "net_af_packet1"], Exception::Kernel)] {
        let plan = loaded(&format!("{several}[dpdk]\nport = {ports:?}\n")).plan;
        let dpdk = plan.dispatcher.unwrap().dpdk.unwrap();
        assert_eq!((dpdk.ports, dpdk.exception), (ports.map(str::to_owned).to_vec(), exception));
    }
}
