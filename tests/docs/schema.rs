//! The JSON Schema of the configuration, by a validator of its own: it takes what the program takes, and refuses what a table of
//! docs/configuration.md rules out.

use crate::configuration::{Bench, Key, WHOLE, documented, table, value, whole};
use crate::page::{read, spans};
use jsonschema::Validator;
use oneip::cli::schema::schema;
use serde_json::Value;
use toml::Table;

struct Editor(Validator);

impl Editor {
    fn new() -> Editor {
        let schema = schema();
        jsonschema::meta::validate(&schema).expect("it is a schema itself");
        Editor(jsonschema::validator_for(&schema).expect("a schema"))
    }

    fn takes(&self, root: &Table) -> bool {
        self.0.is_valid(&serde_json::to_value(root).expect("JSON"))
    }

    /// The whole configuration with a key set, or removed.
    fn with(&self, section: &str, key: &str, value: Option<toml::Value>) -> bool {
        let mut root = whole(Some(section));
        let place = table(&mut root, section);
        match value {
            Some(value) => drop(place.insert(key.to_owned(), value)),
            None => drop(place.remove(key)),
        }
        self.takes(&root)
    }
}

#[test]
fn it_takes_the_example_of_the_package_and_every_example_of_the_page() {
    let editor = Editor::new();
    let example: Table = read("packaging/oneip.toml").parse().expect("TOML");
    assert!(editor.takes(&example));
    assert!(editor.takes(&WHOLE.parse().expect("TOML")));
    for Key { section, name, example, .. } in documented().values().flatten() {
        let (_, text) = example.split_once(" = ").expect("key = value");
        assert!(editor.with(section, name, Some(value(text))), "{section} {example}");
    }
    for include in ["\"services.d\"", "[\"services.d\", \"more.toml\"]"] {
        let text = format!(
            "include = {include}\n[[service]]\nname = \"a\"\naddress = \"203.0.113.1\"\n[[service.server]]\nname = \"b\"\naddress = \"192.0.2.1\"\n"
        );
        assert!(editor.takes(&text.parse().expect("TOML")), "{text}");
    }
}

#[test]
fn it_refuses_for_every_key_what_is_out_of_bounds_or_of_another_type() {
    let editor = Editor::new();
    for Key { section, name, kind, default, values, .. } in documented().values().flatten() {
        let takes = |wrong: toml::Value| editor.with(section, name, Some(wrong));
        assert_eq!(takes(true.into()), kind == "boolean", "{section} {name}");
        if kind == "integer" {
            let bounds: Vec<i64> = values
                .split(" to ")
                .map(|part| {
                    let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse().expect("a number")
                })
                .collect();
            assert!(takes(bounds[0].into()) && takes(bounds[1].into()), "{section} {name}");
            assert!(!takes((bounds[0] - 1).into()) && !takes((bounds[1] + 1).into()), "{section} {name}");
        } else if spans(values).first().is_some_and(|word| word.starts_with('"')) {
            assert!(spans(values).iter().all(|word| takes(value(word))) && !takes("zzzz".into()), "{section} {name}");
        }
        assert!(kind != "boolean" || !takes("true".into()), "{section} {name}");
        if kind.starts_with("array") {
            assert!(!takes(toml::Value::Array(Vec::new())) && !takes("zzzz".into()), "{section} {name}");
        }
        if default == "required" {
            assert!(!editor.with(section, name, None), "{section} lacks {name}");
        }
        assert!(!editor.with(section, &format!("{name}x"), Some(1.into())), "{section} has a key too many");
    }
    assert!(!editor.with("[cluster]", "hash_key", Some("0011".into())));
    assert!(!editor.with("[[service]]", "ports", Some(value("[\"80\"]"))));
}

#[test]
fn it_knows_each_key_of_the_program_and_no_other() {
    let bench = Bench::new();
    let names = |schema: &Value| -> Vec<String> {
        let mut names: Vec<String> = schema["properties"].as_object().expect("keys").keys().cloned().collect();
        names.sort();
        names
    };
    let known = |section: Option<&str>| {
        let mut known = bench.known(section);
        known.sort();
        known
    };
    let schema = schema();
    assert_eq!(names(&schema), known(None));
    for section in documented().keys() {
        let mut at = &schema;
        for name in section.trim_matches(['[', ']']).split('.') {
            at = if at["type"] == "array" { &at["items"] } else { at };
            at = &at["properties"][name];
        }
        at = if at["type"] == "array" { &at["items"] } else { at };
        at = at.get("anyOf").map_or(at, |kinds| &kinds[0]);
        at = if at["type"] == "array" { &at["items"] } else { at };
        assert_eq!(names(at), known(Some(section)), "{section}");
        for (name, key) in at["properties"].as_object().expect("keys") {
            assert!(
                key["description"].as_str().is_some_and(|text| !text.contains('`')) || key["type"] == "array",
                "{section} {name}"
            );
        }
    }
}
