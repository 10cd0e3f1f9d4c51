//! A configuration of several files: what it comes to, and where its errors are.

use oneip::config::{self, Loaded};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

const HEAD: &str = "include = \"services.d\"\n\n[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n\n[dispatcher]\ninterface = \"eth1\"\n";

fn service(name: &str, last: u8) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\naddress = \"203.0.113.{last}\"\n\n[[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n"
    )
}

struct Folder(TempDir);

impl Folder {
    /// With `oneip.toml`, and in `services.d` two services.
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path("services.d")).unwrap();
        folder.write("oneip.toml", HEAD);
        folder.write("services.d/20-api.toml", &service("api", 81));
        folder.write("services.d/10-web.toml", &service("web", 80));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> Result<Loaded, String> {
        let shown = |text: String| text.replace(&format!("{}/", self.0.path().display()), "");
        config::load(&self.path("oneip.toml")).map_err(|errors| shown(errors.to_string()))
    }

    fn names(&self) -> Vec<String> {
        let loaded = self.load().unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(loaded.warnings, []);
        loaded.plan.services.into_iter().map(|service| service.name).collect()
    }

    fn said(&self) -> String {
        self.load().expect_err("it is refused")
    }
}

#[test]
fn the_files_of_a_directory_are_read_in_the_order_of_their_names() {
    let folder = Folder::new();
    folder.write("services.d/.30-hidden.toml", "no TOML");
    folder.write("services.d/10-web.toml.bak", "no TOML");
    fs::create_dir(folder.path("services.d/old")).unwrap();
    assert_eq!(folder.names(), ["web", "api"]);
    // What it has itself comes first; a byte order mark is no text.
    folder.write("oneip.toml", &format!("{HEAD}\n{}", service("own", 79)));
    folder.write("services.d/20-api.toml", &format!("\u{feff}{}", service("api", 81)));
    assert_eq!(folder.names(), ["own", "web", "api"]);
}

#[test]
fn it_is_as_if_all_stood_in_one_file() {
    let folder = Folder::new();
    let one =
        format!("{}\n{}\n{}", HEAD.replace("include = \"services.d\"\n", ""), service("web", 80), service("api", 81));
    let several = folder.load().unwrap().plan;
    folder.write("oneip.toml", &one);
    assert_eq!(several, folder.load().unwrap().plan);
}

#[test]
fn files_and_directories_may_be_listed_and_files_may_include_others() {
    let folder = Folder::new();
    folder.write("oneip.toml", &HEAD.replace("\"services.d\"", "[\"more.toml\", \"services.d/\"]"));
    folder.write("more.toml", &format!("include = \"key.toml\"\n{}", service("more", 82)));
    folder.write("key.toml", "[admin]\nmetrics = \"127.0.0.1:9180\"\n");
    assert_eq!(folder.names(), ["more", "web", "api"]);
    assert!(folder.load().unwrap().plan.admin.metrics.is_some());
    // An empty directory is one without services.
    fs::create_dir(folder.path("empty.d")).unwrap();
    folder.write("oneip.toml", &HEAD.replace("\"services.d\"", "[\"empty.d\", \"services.d\"]"));
    assert_eq!(folder.names(), ["web", "api"]);
}

#[test]
fn an_error_names_its_own_file_and_line() {
    let folder = Folder::new();
    folder.write("services.d/20-api.toml", &service("api", 81).replace("192.0.2.11", "192.0.2.1111"));
    assert!(
        folder.said().starts_with("services.d/20-api.toml:7:11: \"192.0.2.1111\" is not an IP address"),
        "{}",
        folder.said()
    );
    // Of two files: in the order in which they are read, and counted under the name of the whole.
    folder.write(
        "services.d/10-web.toml",
        &service("web", 80).replace("name = \"web\"", "nome = \"web\"\nslots = \"ü\" \"\""),
    );
    folder.write("oneip.toml", &HEAD.replace("eth1", "eth/1"));
    let said = folder.said();
    let heads: Vec<&str> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "oneip.toml",
        "oneip.toml:7:13",
        "services.d/10-web.toml:2:1",
        "services.d/10-web.toml:3:13",
        "services.d/20-api.toml:7:11",
    ];
    assert_eq!(heads, expected, "{said}");
    assert!(said.starts_with("oneip.toml: 4 problems\n"), "{said}");
}

#[test]
fn the_rules_between_services_hold_between_files() {
    let folder = Folder::new();
    folder.write("services.d/20-api.toml", &service("web", 80));
    let said = folder.said();
    let name = "services.d/20-api.toml:2:8: service name \"web\" is already given on line 2 of services.d/10-web.toml; each service has its own";
    assert!(said.contains(name), "{said}");
    assert!(
        said.contains(
            "service \"web\" and service \"web\" (line 1 of services.d/10-web.toml) both take all of 203.0.113.80"
        ),
        "{said}"
    );
    // In two files too.
    folder.write("services.d/20-api.toml", &format!("[dispatcher]\ninterface = \"eth2\"\n{}", service("api", 81)));
    assert_eq!(
        folder.said(),
        "services.d/20-api.toml:1:2: `dispatcher` is given on line 6 of oneip.toml already; each section except \
         [[service]] can be in one file only"
    );
}

#[test]
fn what_is_nowhere_is_missing_unless_a_file_cannot_be_read() {
    let folder = Folder::new();
    folder.write("oneip.toml", "include = \"services.d\"\n");
    assert!(folder.said().starts_with("oneip.toml:1:1: the configuration lacks `cluster`"), "{}", folder.said());
    folder.write("oneip.toml", "include = [\"services.d\", \"key.toml\"]\n");
    let lost = "oneip.toml:1:26: \"key.toml\" cannot be read: No such file or directory (os error 2)";
    assert_eq!(folder.said(), lost, "and nothing else, for it may be in there");
    fs::write(folder.path("key.toml"), b"[cluster]\n# \xff\n").unwrap();
    assert_eq!(folder.said(), "key.toml:2:3: byte 0xff at offset 12 is not UTF-8; save the file as UTF-8");
}

#[test]
fn a_file_is_read_once_and_does_not_lead_back() {
    let folder = Folder::new();
    folder.write("oneip.toml", &HEAD.replace("\"services.d\"", "[\"services.d\", \"services.d/10-web.toml\"]"));
    let twice =
        "oneip.toml:1:26: \"services.d/10-web.toml\" is included on line 1 of oneip.toml already; keep one of the two";
    assert_eq!(folder.said(), twice);
    // By whatever name.
    folder.write("oneip.toml", HEAD);
    symlink(folder.path("services.d/10-web.toml"), folder.path("services.d/30-link.toml")).unwrap();
    assert!(folder.said().contains("30-link.toml\" is included on line 1 of oneip.toml already"), "{}", folder.said());
    fs::remove_file(folder.path("services.d/30-link.toml")).unwrap();
    let back = "is an include loop: it is this file, or it includes this file; remove it from `include`";
    for (name, text, at) in [
        ("oneip.toml", HEAD.replace("services.d", "."), "oneip.toml:1:11: \"./oneip.toml\" "),
        ("oneip.toml", HEAD.replace("services.d", "oneip.toml"), "oneip.toml:1:11: \"oneip.toml\" "),
        (
            "services.d/20-api.toml",
            format!("include = \"oneip.toml\"\n{}", service("api", 81)),
            "services.d/20-api.toml:1:11: \"oneip.toml\" ",
        ),
    ] {
        let folder = Folder::new();
        folder.write(name, &text);
        assert!(folder.said().starts_with(&format!("{at}{back}")), "{}", folder.said());
    }
}

#[test]
fn what_is_no_path_is_refused() {
    let folder = Folder::new();
    for (written, said) in [
        ("\"\"", "oneip.toml:1:11: \"\" is not the path of a file; write one like \"services.d\""),
        ("[]", "oneip.toml:1:11: `include` is empty; leave the key out, or write include = \"services.d\""),
        ("7", "oneip.toml:1:11: this is an integer; write the path of a file or of a directory"),
        ("\"/dev/null\"", "oneip.toml:1:11: \"/dev/null\" is a device; name a regular file"),
    ] {
        folder.write("oneip.toml", &HEAD.replace("\"services.d\"", written));
        assert!(folder.said().contains(said), "{written}: {}", folder.said());
    }
}

#[test]
fn paths_in_every_file_start_where_the_configuration_is() {
    let folder = Folder::new();
    folder.write("hash.key", "5b2f9d0c71e84a6d93f05ce2187ab46d\n");
    folder.write("oneip.toml", "include = \"services.d\"\n[dispatcher]\ninterface = \"eth1\"\n");
    folder.write("services.d/00-key.toml", "[cluster]\nhash_key_file = \"hash.key\"\n");
    assert_eq!(folder.names(), ["web", "api"]);
    // The file with the key in it is the one that nobody else may read.
    folder.write("services.d/00-key.toml", "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n");
    fs::set_permissions(folder.path("services.d/00-key.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let warned: Vec<String> = folder.load().unwrap().warnings.iter().map(ToString::to_string).collect();
    let [warning] = &warned[..] else { panic!("{warned:?}") };
    assert!(
        warning.contains("services.d/00-key.toml:2:12: every user of this machine can read the hash key here"),
        "{warning}"
    );
    assert!(warning.contains(&format!("chmod o-rwx {}", folder.path("services.d/00-key.toml").display())), "{warning}");
}
