//! DPDK's calls that make, describe and end a device, with types that cannot be misused: <https://doc.dpdk.org/api-22.11/>.
//! What is done with frames is in `frames`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use caps::CapSet;

use super::frames::Pool;
use super::sys;
use crate::model::Mac;

/// Why a call was refused: an error number of DPDK's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal(c_int);

impl Refusal {
    pub(super) fn is_permission(self) -> bool {
        [libc::EACCES, libc::EPERM].contains(&self.0)
    }

    pub(super) fn is_out_of_memory(self) -> bool {
        self.0 == libc::ENOMEM
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it returns a terminated text for any number, which stays until this thread's next call.
        f.write_str(&unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) }.to_string_lossy())
    }
}

/// Negative results are error numbers; -1 says to look at `rte_errno`.
fn checked(result: c_int) -> Result<(), Refusal> {
    match result {
        0.. => Ok(()),
        -1 => Err(last_refusal()),
        code => Err(Refusal(-code)),
    }
}

pub(super) fn last_refusal() -> Refusal {
    // SAFETY: reads a variable of this thread.
    Refusal(unsafe { sys::oneip_errno() })
}

fn c_text(text: &str) -> CString {
    CString::new(text).expect("the configuration's texts hold no zero")
}

/// `DPDK 22.11.11`
pub(super) fn version() -> String {
    // SAFETY: it returns a terminated text that is never freed.
    unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
}

/// The time stamp counter.
#[inline]
pub(super) fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { sys::oneip_tsc() }
}

static SINK: OnceLock<fn(u32, &str)> = OnceLock::new();

unsafe extern "C" fn hear(level: u32, text: *const c_char, length: usize) {
    // SAFETY: the shim passes a message of this length that outlives the call.
    let text = unsafe { slice::from_raw_parts(text.cast::<u8>(), length) };
    if let Some(sink) = SINK.get() {
        sink(level, &String::from_utf8_lossy(text));
    }
}

/// Has DPDK's messages sent to `sink`, from any thread, with their level; otherwise they are printed.
pub(super) fn send_log_to(sink: fn(u32, &str)) {
    if SINK.set(sink).is_ok() {
        // SAFETY: the function stays, and takes what the shim gives it. Where it fails, messages are printed as before.
        unsafe { sys::oneip_log_to(Some(hear)) };
    }
}

/// `rte_eal_init`.
pub(super) fn start_eal(arguments: &[String]) -> Result<(), Refusal> {
    let texts = std::iter::once("oneip").chain(arguments.iter().map(String::as_str)).map(c_text);
    // DPDK keeps pointers to them, and reorders the list: both are left to it.
    let list: &mut Vec<*mut c_char> = Box::leak(Box::new(texts.map(CString::into_raw).collect()));
    let count = list.len() as c_int;
    list.push(ptr::null_mut());
    // SAFETY: `count` terminated texts and a null behind them, as of main(), which are never freed.
    checked(unsafe { sys::rte_eal_init(count, list.as_mut_ptr()) })
}

unsafe extern "C" fn give_up(_: *mut c_void) {
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(error) = caps::clear(None, set) {
            tracing::warn!(%error, "a thread of DPDK's keeps privileges that it does not need");
        }
    }
}

/// Has DPDK's interrupt thread, which has the capabilities of the one that started it, give them up: alarms go off on it
/// (`rte_eal_alarm_set`), and no other thread can do it.
pub(super) fn drop_interrupt_privileges() -> Result<(), Refusal> {
    // SAFETY: the function stays, and looks at no argument.
    checked(unsafe { sys::rte_eal_alarm_set(1, Some(give_up), ptr::null_mut()) })
}

/// A device of DPDK's that has been found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(u16);

/// What its driver says about it.
pub(super) struct Facts {
    pub driver: String,
    pub mac: Mac,
    pub most_queues: u16,
    pub mtus: (u16, u16),
    /// Fields that it can spread frames over its queues by; of those that we want.
    pub spread: u64,
    /// Whether it can take the frames of a burst back in bulk.
    pub fast_free: bool,
    /// The NUMA node; -1 where it has none.
    pub node: c_int,
}

/// How a port is set up.
pub(super) struct Setup {
    pub queues: u16,
    pub mtu: u16,
    pub spread: u64,
    pub fast_free: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Statistics {
    /// Frames that the device dropped because its ring was full.
    pub missed: u64,
    /// Times that there was no mbuf to receive into.
    pub no_mbuf: u64,
}

impl Port {
    /// The port of a PCI address or virtual device, by its name alone, if it is there.
    pub(super) fn find(name: &str) -> Option<Port> {
        let (name, mut port) = (c_text(name), 0);
        // SAFETY: a terminated text, and a place for the answer.
        (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0).then_some(Port(port))
    }

    /// Makes the device of that description: a name, and what its driver takes after commas.
    pub(super) fn probe(description: &str) -> Result<(), Refusal> {
        let description = c_text(description);
        // SAFETY: a terminated text, which DPDK copies.
        checked(unsafe { sys::rte_dev_probe(description.as_ptr()) })
    }

    fn info(self) -> Result<sys::rte_eth_dev_info, Refusal> {
        let mut info = MaybeUninit::zeroed();
        // SAFETY: fills the structure, for which all zeros are a value too.
        unsafe {
            checked(sys::rte_eth_dev_info_get(self.0, info.as_mut_ptr()))?;
            Ok(info.assume_init())
        }
    }

    pub(super) fn facts(self) -> Result<Facts, Refusal> {
        let info = self.info()?;
        let mut mac = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: fills the structure.
        checked(unsafe { sys::rte_eth_macaddr_get(self.0, &mut mac) })?;
        // SAFETY: a driver's name is a terminated text that stays as long as the driver.
        let driver = unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
        // SAFETY: reads a field of the port.
        let node = unsafe { sys::rte_eth_dev_socket_id(self.0) };
        Ok(Facts {
            driver,
            mac: Mac(mac.addr_bytes),
            most_queues: info.max_rx_queues.min(info.max_tx_queues),
            mtus: (info.min_mtu, info.max_mtu),
            spread: info.flow_type_rss_offloads & sys::ONEIP_RSS,
            fast_free: info.tx_offload_capa & sys::ONEIP_FAST_FREE != 0,
            node,
        })
    }

    pub(super) fn configure(self, setup: &Setup) -> Result<(), Refusal> {
        // SAFETY: a structure of numbers and null pointers, which DPDK takes for its defaults.
        let mut conf: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        conf.rxmode.mtu = setup.mtu.into();
        if setup.queues > 1 && setup.spread != 0 {
            conf.rxmode.mq_mode = sys::rte_eth_rx_mq_mode_RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = setup.spread;
        }
        if setup.fast_free {
            conf.txmode.offloads = sys::ONEIP_FAST_FREE;
        }
        // SAFETY: DPDK copies the structure.
        checked(unsafe { sys::rte_eth_dev_configure(self.0, setup.queues, setup.queues, &conf) })
    }

    /// Descriptors of a receive and of a transmit ring, as near to the wanted numbers as the device can.
    pub(super) fn descriptors(self, mut receive: u16, mut transmit: u16) -> Result<(u16, u16), Refusal> {
        // SAFETY: reads and writes the two numbers.
        checked(unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.0, &mut receive, &mut transmit) })?;
        Ok((receive, transmit))
    }

    /// The pool is to outlive the port: `device` frees it after `close`.
    pub(super) fn set_up_queue(
        self,
        queue: u16,
        (receive, transmit): (u16, u16),
        node: c_int,
        pool: &Pool,
    ) -> Result<(), Refusal> {
        let node = node as u32;
        // SAFETY: null stands for the driver's defaults; the pool is alive, and stays so until the port is closed.
        unsafe {
            checked(sys::rte_eth_rx_queue_setup(self.0, queue, receive, node, ptr::null(), pool.as_ptr()))?;
            checked(sys::rte_eth_tx_queue_setup(self.0, queue, transmit, node, ptr::null()))
        }
    }

    pub(super) fn start(self) -> Result<(), Refusal> {
        // SAFETY: nothing but the port's number.
        checked(unsafe { sys::rte_eth_dev_start(self.0) })
    }

    /// Has the device receive what is sent to any group, as neighbour discovery is; if it cannot choose, everything.
    pub(super) fn receive_groups(self) -> Result<(), Refusal> {
        // SAFETY: nothing but the port's number.
        let groups = checked(unsafe { sys::rte_eth_allmulticast_enable(self.0) });
        // SAFETY: as above.
        groups.or_else(|_| checked(unsafe { sys::rte_eth_promiscuous_enable(self.0) }))
    }

    /// `None`: the port is not there any more.
    pub(super) fn statistics(self) -> Option<Statistics> {
        let mut stats = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: fills the structure, for which all zeros are a value too.
        let stats = unsafe { (sys::rte_eth_stats_get(self.0, stats.as_mut_ptr()) == 0).then(|| stats.assume_init()) }?;
        Some(Statistics { missed: stats.imissed, no_mbuf: stats.rx_nombuf })
    }

    /// Whether its link is up, without waiting for one that is just coming up; `None`: the driver does not say.
    pub(super) fn has_link(self) -> Option<bool> {
        let mut link = MaybeUninit::<sys::rte_eth_link>::zeroed();
        // SAFETY: fills the structure, for which all zeros are a value too.
        let link =
            unsafe { (sys::rte_eth_link_get_nowait(self.0, link.as_mut_ptr()) == 0).then(|| link.assume_init()) }?;
        Some(link.link_status() != 0)
    }

    /// Stops the port, gives its frames back and removes the device from DPDK. No queue of it may be in use.
    pub(super) fn close(self) -> Result<(), Refusal> {
        let device = self.info()?.device;
        // SAFETY: `device` keeps every user of a queue from outliving this; the device's description, which DPDK owns, is
        // there until it is removed, which is last.
        unsafe {
            checked(sys::rte_eth_dev_stop(self.0))?;
            checked(sys::rte_eth_dev_close(self.0))?;
            checked(sys::rte_dev_remove(device))
        }
    }

    pub(super) fn number(self) -> u16 {
        self.0
    }
}
