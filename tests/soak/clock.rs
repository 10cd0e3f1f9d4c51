//! A wall clock that jumps, for one process: a library before all others (`LD_PRELOAD`) adds what a file says.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static volatile const long long *seconds;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_JUMPS");
    real = dlsym(RTLD_NEXT, "clock_gettime");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, fd, 0);
    seconds = at == MAP_FAILED ? 0 : at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real)
        begin();
    int result = real(clock, now);
    if (!result && seconds && clock == CLOCK_REALTIME)
        now->tv_sec += *seconds;
    return result;
}
"#;

pub struct Clock {
    library: PathBuf,
    jumps: PathBuf,
    offset: File,
}

impl Clock {
    /// In this folder.
    pub fn make(folder: &Path) -> Clock {
        let [source, library, jumps] = ["clock.c", "clock.so", "clock"].map(|name| folder.join(name));
        fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(compiler.status().expect("there is a C compiler").success());
        let offset = OpenOptions::new().write(true).create(true).truncate(true).open(&jumps).unwrap();
        let clock = Clock { library, jumps, offset };
        clock.set(0);
        clock
    }

    /// The wall clock of processes that have it is so many seconds ahead from now on.
    pub fn set(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// Gives a process that is to be started this clock.
    pub fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_JUMPS", &self.jumps);
    }
}
