//! libdpdk as bindgen sees it (`shim.h`), and nothing else. See build.rs.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn)]
#![allow(dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals, unnecessary_transmutes)]
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/dpdk.rs"));
