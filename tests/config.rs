use oneip::control::config;
#[test]
fn dump() {
    let dir = std::path::PathBuf::from("/tmp/cfg");
    let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for n in names {
        let t = std::fs::read_to_string(&n).unwrap();
        println!("#### {}", n.display());
        match config::parse(&t, "t.toml") { Ok(l) => for w in l.warnings { println!("warning {w}") }, Err(e) => println!("{e}") }
    }
}
