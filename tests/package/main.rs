//! The package: its units, its scripts, what is in it, and what dpkg makes of it on a real Debian, this machine's, in an overlay that is thrown away.
//!
//! systemd cannot run there. What the scripts would ask of it is written down by two stand-ins, `systemctl` and `deb-systemd-invoke`.

#[path = "../tools/mod.rs"]
mod tools;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tools::installed;

const UNITS: [&str; 2] = ["oneip.service", "oneip-filter.service"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a program says, which succeeds and has no complaint.
fn quiet(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success() && stderr.is_empty(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout
}

fn packaged(name: &str) -> String {
    fs::read_to_string(root().join("packaging").join(name)).unwrap()
}

#[test]
fn the_units_are_exposed_less_than_3() {
    for name in UNITS {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--offline=true", "--no-pager"]).arg(root().join("packaging").join(name));
        let said = quiet(&mut analyze);
        let level = said.split("Overall exposure level for ").nth(1).and_then(|rest| rest.split(": ").nth(1)).unwrap();
        let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
        assert!(level < 3.0, "{name}: {said}");
    }
}

#[test]
fn systemd_has_no_complaint_about_the_units() {
    let folder = tempfile::tempdir().unwrap();
    for name in UNITS {
        let file = folder.path().join(name);
        fs::write(&file, packaged(name).replace("/usr/bin/oneip", env!("CARGO_BIN_EXE_oneip"))).unwrap();
        quiet(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file));
    }
}

#[test]
fn the_units_are_notified_watched_reloaded_and_bounded() {
    for (name, verb) in UNITS.into_iter().zip(["run", "filter"]) {
        let unit = packaged(name);
        for line in [
            "Type=notify",
            "WatchdogSec=10",
            "Restart=on-failure",
            "ExecReload=/usr/bin/oneip ctl reload",
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON",
            "StateDirectory=oneip",
            "RuntimeDirectory=oneip",
            &format!("ExecStart=/usr/bin/oneip {verb} $ONEIP_OPTIONS"),
        ] {
            assert!(unit.lines().any(|there| there == line), "{name} lacks {line}");
        }
        let defaults = format!("EnvironmentFile=-/etc/default/{}", name.trim_end_matches(".service"));
        assert!(unit.contains(&defaults), "{name}");
    }
}

/// The package, of this build. It is made once.
fn package() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        let mut script = Command::new(root().join("scripts/package.sh"));
        PathBuf::from(quiet(script.args(["--no-build", "--profile", "dev", "--out"]).arg(out)).trim_end())
    })
}

#[test]
fn the_package_is_whole_and_lintian_has_no_complaint() {
    if !installed("cargo-deb") || !installed("lintian") || !installed("shellcheck") {
        return;
    }
    let package = package();
    let content = quiet(Command::new("dpkg-deb").arg("-c").arg(package));
    for file in [
        "/usr/bin/oneip",
        "/usr/lib/systemd/system/oneip.service",
        "/usr/lib/systemd/system/oneip-filter.service",
        "/usr/share/doc/oneip/examples/oneip.toml",
        "/usr/share/man/man1/oneip-run.1.gz",
        "/usr/share/man/man5/oneip.toml.5.gz",
        "/usr/share/bash-completion/completions/oneip",
        "/usr/share/zsh/vendor-completions/_oneip",
        "/usr/share/fish/vendor_completions.d/oneip.fish",
        "/usr/share/oneip/oneip.schema.json",
        "/usr/share/oneip/prometheus/oneip.rules.yml",
        "/usr/share/oneip/grafana/oneip.json",
        "/etc/default/oneip",
        "/etc/default/oneip-filter",
        "/etc/logrotate.d/oneip",
    ] {
        assert!(content.lines().any(|line| line.ends_with(&format!(" .{file}"))), "{file} is not in it:\n{content}");
    }
    let said = quiet(Command::new("lintian").args(["--allow-root", "--fail-on=error,warning"]).arg(package));
    assert_eq!(said, "");
    for script in ["postinst", "prerm", "postrm"] {
        quiet(Command::new("shellcheck").args(["-s", "sh"]).arg(root().join("packaging/debian").join(script)));
    }
}

/// By itself: it keeps a copy, and the process its file, which is empty.
#[test]
fn logrotate_copies_an_interval_log_and_cuts_it() {
    const LOGROTATE: &str = "/usr/sbin/logrotate";
    if !installed(LOGROTATE) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rules = packaged("oneip.logrotate");
    assert!(rules.contains("\n/var/log/oneip/*.hlog {\n"), "{rules}");
    fs::write(at("rules"), rules.replace("/var/log/oneip", folder.path().to_str().unwrap())).unwrap();
    fs::write(at("latency.hlog"), "what was logged\n").unwrap();
    let opened = fs::File::open(at("latency.hlog")).unwrap();
    quiet(Command::new(LOGROTATE).args(["--force", "--state"]).args([at("state"), at("rules")]));
    assert_eq!((opened.metadata().unwrap().len(), at("latency.hlog").is_file()), (0, true));
    let rotated = quiet(Command::new("zcat").arg(at("latency.hlog.1.gz")));
    assert_eq!(rotated, "what was logged\n");
}

/// Each alert has a case in which it is silent and one in which it is not.
#[test]
fn the_alerts_pass_their_unit_tests() {
    if !installed("promtool") {
        return;
    }
    let folder = root().join("packaging/prometheus");
    let promtool = |arguments: [&str; 2], file: &str| {
        let output = Command::new("promtool").args(arguments).arg(folder.join(file)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    };
    promtool(["check", "rules"], "oneip.rules.yml");
    promtool(["test", "rules"], "oneip.rules.test.yml");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let (rules, tests) = (read("oneip.rules.yml"), read("oneip.rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.matches(alert).count() >= 3, "{alert} is not tested");
    }
}

/// What stands in for systemd, and how the package is installed, upgraded, removed and purged, in a root of its own.
const LIFE: &str = r#"
mount -t tmpfs tmpfs "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay -o "lowerdir=/,upperdir=$WORK/upper,workdir=$WORK/work" overlay "$WORK/root"
cp "$PACKAGE" "$WORK/root/oneip.deb"
cd "$WORK/root"
mkdir -p run/systemd/system
# A container may have one.
rm -f usr/sbin/policy-rc.d
cat >usr/local/bin/deb-systemd-invoke <<'END'
#!/bin/sh
echo "invoke $*" >>/asked
END
cat >usr/local/bin/systemctl <<'END'
#!/bin/sh
case "$*" in
    *is-active*) [ -e "/active/${3:-$2}" ] ;;
    *) echo "systemctl $*" >>/asked ;;
esac
END
chmod 755 usr/local/bin/deb-systemd-invoke usr/local/bin/systemctl
mkdir active
step() { echo "== $1"; shift; rm -f asked; "$@" >log 2>&1 || { cat log; exit 1; }; ! [ -e asked ] || grep -v daemon-reload asked || true; }
as() { chroot . env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
step install as dpkg -i /oneip.deb
stat -c '%a %n' etc/oneip usr/bin/oneip
as oneip --version
as sh -c 'man --version >/dev/null 2>&1 && man -w oneip.toml || true' >/dev/null
step idle-upgrade as dpkg -i /oneip.deb
touch active/oneip.service active/oneip-filter.service
step upgrade as dpkg -i /oneip.deb
grep 'does not hand over' log
sed -i 's|^#ONEIP_SOCKET=.*|ONEIP_SOCKET=/run/other.sock|' etc/default/oneip
cat >usr/local/bin/oneip <<'END'
#!/bin/sh
echo "oneip $*" >>/asked
END
chmod 755 usr/local/bin/oneip
step hot-upgrade as dpkg -i --force-confold /oneip.deb
! grep 'does not hand over' log
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
step held as dpkg -i --force-confold /oneip.deb
grep -c 'the old version runs on' log
rm usr/sbin/policy-rc.d
echo kept >etc/oneip/oneip.toml
mkdir -p var/lib/oneip var/log/oneip
step remove as dpkg -r oneip
ls -d usr/bin/oneip etc/default/oneip etc/oneip/oneip.toml var/lib/oneip 2>/dev/null || true
step purge as dpkg -P oneip
ls -d etc/default/oneip etc/oneip/oneip.toml var/lib/oneip var/log/oneip 2>/dev/null || true
"#;

#[test]
fn dpkg_installs_upgrades_removes_and_purges_it() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "SKIPPED: needs root");
        return;
    }
    if !installed("cargo-deb") {
        return;
    }
    let package = package();
    let work = tempfile::tempdir().unwrap();
    let mut life = Command::new("unshare");
    life.args(["-m", "bash", "-euc", LIFE]).env("WORK", work.path()).env("PACKAGE", package);
    let Output { status, stdout, stderr } = life.output().unwrap();
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "== install\n750 etc/oneip\n755 usr/bin/oneip\noneip {version}\n\
         == idle-upgrade\n\
         == upgrade\nsystemctl restart oneip.service\nsystemctl restart oneip-filter.service\n\
         oneip does not hand over: it is restarted, with a gap in dispatching\n\
         == hot-upgrade\noneip ctl --socket /run/other.sock hand-over\nsystemctl restart oneip.service\nsystemctl restart oneip-filter.service\n\
         == held\n2\n\
         == remove\ninvoke stop oneip-filter.service\ninvoke stop oneip.service\noneip filter --detach -c /etc/oneip/oneip.toml\n\
         etc/default/oneip\netc/oneip/oneip.toml\nvar/lib/oneip\n\
         == purge\netc/oneip/oneip.toml\n"
    );
    assert_eq!(said, expected);
}
