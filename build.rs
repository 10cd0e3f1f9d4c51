//! Compiles the BPF programs (`src/bpf/*.bpf.c`) into `OUT_DIR`, where `include_bytes_aligned!` picks them up; with feature
//! `dpdk` also the bindings to the system's libdpdk (`dpdk.rs` there) and the shim for its inline functions.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, exit};

const BPF_SOURCES: &str = "src/bpf";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    compile_bpf();
    #[cfg(feature = "dpdk")]
    dpdk::build();
}

fn out() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
}

/// One object per program. Cargo watches the whole folder, so a changed header recompiles them too.
fn compile_bpf() {
    println!("cargo::rerun-if-changed={BPF_SOURCES}");
    let mut sources: Vec<PathBuf> = fs::read_dir(BPF_SOURCES)
        .unwrap_or_else(|error| fail(&format!("cannot read {BPF_SOURCES}: {error}")))
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    for source in &sources {
        let name = source.file_name().expect("a file has a name");
        clang(source, &out().join(name).with_extension("o"));
    }
}

fn clang(source: &Path, object: &Path) {
    let mut command = Command::new("clang");
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    // <linux/*.h> includes <asm/types.h>, which Debian keeps in a folder per architecture that this target does not search.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        command.arg("-I").arg(multiarch);
    }
    command.arg("-c").arg(source).arg("-o").arg(object);
    let output = run(
        &mut command,
        "the BPF programs need clang, which is not installed: run scripts/setup.sh, or apt-get install clang",
    );
    if !output.status.success() {
        fail(&format!("clang: {}\n{}", source.display(), String::from_utf8_lossy(&output.stderr)));
    }
}

/// `missing` is what to say when there is no such program.
fn run(command: &mut Command, missing: &str) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => fail(missing),
        Err(error) => fail(&format!("cannot run {}: {error}", command.get_program().display())),
    }
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use super::{fail, out, run};
    use std::env;
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const SHIM: [&str; 2] = ["src/port/dpdk/shim.c", "src/port/dpdk/shim.h"];

    /// What the port uses: 21.11 renamed much of it, and 22.11 is what it is tried with.
    const LEAST_VERSION: &str = "21.11";

    /// Every function and constant that the port names.
    const NAMES: &str = "oneip_.*|rte_eal_init|rte_dev_probe|rte_dev_remove|rte_eth_(dev_(get_port_by_name|info_get|configure|\
        adjust_nb_rx_tx_desc|start|stop|close|socket_id|get_mtu)|(rx|tx)_queue_setup|macaddr_get|stats_(get|reset)|link_get_nowait|allmulticast_enable|\
        promiscuous_enable)|rte_pktmbuf_(pool_create|free_bulk)|rte_mempool_(avail_count|free)|rte_thread_(un)?register|rte_eal_alarm_set|\
        rte_strerror|rte_version";

    /// Packed structures with aligned members, which Rust has no layout for; the port uses none of them.
    const OPAQUE: &str = "rte_arp_ipv4|rte_arp_hdr|rte_l2tpv2_combined_msg_hdr|rte_gtp_psc_generic_hdr";

    pub fn build() {
        SHIM.iter().for_each(|file| println!("cargo::rerun-if-changed={file}"));
        ["PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH"]
            .iter()
            .for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
        let (flags, libraries) = (pkg_config(&["--cflags"]), pkg_config(&["--libs"]));
        // An upgrade of libdpdk changes this file.
        println!("cargo::rerun-if-changed={}/libdpdk.pc", pkg_config(&["--variable=pcfiledir"]).join(" "));
        bind(&flags);
        let mut shim = cc::Build::new();
        flags.iter().for_each(|flag| _ = shim.flag(flag));
        // The headers' own inline functions leave parameters unused.
        shim.file(SHIM[0]).opt_level(3).warnings(false).cargo_output(true).compile("oneip_dpdk_shim");
        for library in libraries {
            if let Some(folder) = library.strip_prefix("-L") {
                println!("cargo::rustc-link-search=native={folder}");
            } else if let Some(name) = library.strip_prefix("-l") {
                println!("cargo::rustc-link-lib={}", name.trim_start_matches(':'));
            }
        }
    }

    fn pkg_config(question: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.args(question).arg(format!("libdpdk >= {LEAST_VERSION}"));
        let advice = "run scripts/setup.sh --dpdk, or apt-get install --no-install-recommends pkg-config libdpdk-dev; \
                      or build without --features dpdk";
        let output = run(&mut command, &format!("feature `dpdk` needs pkg-config, which is not installed: {advice}"));
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            fail(&format!(
                "feature `dpdk` needs libdpdk {LEAST_VERSION} or newer, which pkg-config does not find: {advice}\n{said}"
            ));
        }
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    fn bind(flags: &[String]) {
        choose_libclang();
        let builder = bindgen::builder()
            .header(SHIM[1])
            .clang_args(flags)
            .allowlist_function(NAMES)
            .allowlist_var("ONEIP_.*|RTE_PKTMBUF_HEADROOM")
            .opaque_type(OPAQUE)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .layout_tests(false)
            .generate_comments(false);
        // It panics where it finds no libclang.
        match catch_unwind(AssertUnwindSafe(|| builder.generate())) {
            Ok(Ok(bindings)) => bindings.write_to_file(out().join("dpdk.rs")).expect("OUT_DIR can be written"),
            Ok(Err(error)) => fail(&format!("bindgen cannot read the headers of libdpdk: {error}")),
            Err(_) => {
                fail("feature `dpdk` needs libclang: apt-get install libclang-dev, or set LIBCLANG_PATH to its folder")
            }
        }
    }

    /// With several clang versions installed, bindgen would take the newest libclang with another one's headers, and fail on
    /// those of DPDK: it shall take the one of the `clang` in use.
    #[allow(unsafe_code)]
    fn choose_libclang() {
        if env::var_os("LIBCLANG_PATH").is_some() {
            return;
        }
        let missing =
            "feature `dpdk` needs clang, which is not installed: run scripts/setup.sh, or apt-get install clang";
        let output = run(Command::new("clang").arg("-print-resource-dir"), missing);
        // .../lib/clang/14.0.6
        let resources = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if let Some(folder) = resources.ancestors().nth(2).filter(|folder| holds_libclang(folder)) {
            // SAFETY: a build script has one thread here.
            unsafe { env::set_var("LIBCLANG_PATH", folder) };
        }
    }

    fn holds_libclang(folder: &Path) -> bool {
        let Ok(entries) = fs::read_dir(folder) else { return false };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.into_iter().any(|name| name.starts_with("libclang") && !name.contains("cpp") && name.contains(".so"))
    }
}
