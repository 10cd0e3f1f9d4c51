//! What a process and the kernel hold for it: after the first minutes it may not grow any more.

use std::fmt;
use std::fs;

/// At one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub processes: u64,
    /// Of their memory, in KiB.
    pub memory: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Maps and programs of BPF, and links to interfaces, among the descriptors.
    pub of_kernel: u64,
    /// Rules, routes and neighbours that say whose they are, and interfaces, of its network.
    pub rules: u64,
    pub routes: u64,
    pub interfaces: u64,
    /// Files beneath the folder of its state and its programs.
    pub files: u64,
}

/// The memory of a process may come and go so much, in KiB: allocators keep what they had, and tables are made beside those that they replace.
const SLACK: u64 = 16 * 1024;

/// Descriptors, for what is under way: checks, and requests at the admin socket.
const UNDER_WAY: u64 = 16;

impl Held {
    /// Of a process. Its network is counted by who knows that.
    pub fn by(pid: u32) -> Held {
        let process = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let open: Vec<String> = fs::read_dir(format!("{process}/fd"))
            .unwrap()
            .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
            .collect();
        let of_kernel = open.iter().filter(|open| open.contains("bpf")).count() as u64;
        Held {
            processes: 1,
            memory: number("VmRSS"),
            threads: number("Threads"),
            descriptors: open.len() as u64,
            of_kernel,
            ..Held::default()
        }
    }

    /// What has grown since.
    pub fn beyond(&self, before: &Held) -> Vec<String> {
        let allowed = [
            ("memory in KiB", before.memory + before.memory / 5 + SLACK * self.processes, self.memory),
            ("descriptors", before.descriptors + UNDER_WAY, self.descriptors),
            ("threads", before.threads, self.threads),
            ("BPF maps, programs and links", before.of_kernel, self.of_kernel),
            ("rules", before.rules, self.rules),
            ("routes", before.routes, self.routes),
            ("interfaces", before.interfaces, self.interfaces),
            ("files", before.files, self.files),
        ];
        let grown = allowed.into_iter().filter(|(_, most, now)| now > most);
        grown.map(|(what, most, now)| format!("{what}: {now}, where {most} would be all right")).collect()
    }
}

impl std::ops::Add for Held {
    type Output = Held;

    fn add(self, other: Held) -> Held {
        Held {
            processes: self.processes + other.processes,
            memory: self.memory + other.memory,
            descriptors: self.descriptors + other.descriptors,
            threads: self.threads + other.threads,
            of_kernel: self.of_kernel + other.of_kernel,
            rules: self.rules + other.rules,
            routes: self.routes + other.routes,
            interfaces: self.interfaces + other.interfaces,
            files: self.files + other.files,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { memory, descriptors, threads, of_kernel, rules, routes, interfaces, files, .. } = self;
        write!(
            f,
            "{memory} KiB, {descriptors} descriptors ({of_kernel} of BPF), {threads} threads, {rules} rules, {routes} routes, {interfaces} interfaces, {files} files"
        )
    }
}
