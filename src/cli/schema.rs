//! The JSON Schema of the configuration, for editors: made of the tables of `docs/configuration.md`, which tests hold to what the program takes.

use super::manual::{CONFIGURATION, plain};
use serde_json::{Map, Value, json};

/// Where the draft stands that editors know.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// What strings look like, beyond what the tables say.
const PATTERNS: [(&str, &str); 6] = [
    ("hash_key", "^[0-9A-Fa-f]{32}$"),
    ("key", "^[0-9A-Fa-f]{32}$"),
    ("name", "^[A-Za-z0-9._-]{1,64}$"),
    ("ports", "^(tcp|udp|sctp)/[1-9][0-9]{0,4}$"),
    ("mac", "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"),
    ("gateway_mac", "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"),
];

/// A schema by which editors complete and check a configuration, or a part of one that is included.
pub fn schema() -> Value {
    let text = json!({ "type": "string" });
    let mut root = section("The configuration of oneip: see oneip.toml(5)");
    root["$schema"] = DRAFT.into();
    root["title"] = "oneip.toml".into();
    root["properties"]["include"] = json!({
        "description": "More files of the configuration: files, and directories of which every *.toml is read",
        "anyOf": [text, { "type": "array", "items": text, "minItems": 1 }],
    });
    let mut interface_name = Value::Null;
    for part in CONFIGURATION.split("\n## ").skip(1) {
        let (heading, body) = part.split_once('\n').unwrap_or((part, ""));
        let title = heading.trim_matches('`');
        if title == "[[dispatcher.interface]]" {
            interface_name = root["properties"]["dispatcher"]["properties"]["interface"].take();
        }
        if title.starts_with('[') {
            *place(&mut root, title) = keys(title, body);
        }
    }
    // It has no keys of its own.
    let limit = &mut root["properties"]["limit"];
    let odd = limit["properties"].take();
    *limit = section("Limits of all services together");
    limit["properties"] = odd;
    // A name, or a section for each.
    let interface = &mut root["properties"]["dispatcher"]["properties"]["interface"];
    let several = interface.take();
    *interface = json!({ "description": interface_name["description"], "anyOf": [several, interface_name] });
    // One, or several.
    let quic = &mut root["properties"]["service"]["items"]["properties"]["quic"];
    let one = quic.take();
    let several = json!({ "type": "array", "minItems": 1, "items": one });
    *quic = json!({ "description": one["description"], "anyOf": [one, several] });
    root
}

/// Where a section stands in the schema; sections above it are there already, for they come first in the file too.
fn place<'s>(root: &'s mut Value, title: &str) -> &'s mut Value {
    let mut at = root;
    let names: Vec<&str> = title.trim_matches(['[', ']']).split('.').collect();
    for (depth, name) in names.iter().enumerate() {
        // Of an array, what its elements are.
        let inside = if at["type"] == "array" { &mut at["items"] } else { at };
        at = &mut inside["properties"][*name];
        if depth + 1 == names.len() && title.starts_with("[[") {
            *at = json!({ "type": "array", "minItems": 1, "items": {} });
            return &mut at["items"];
        }
    }
    at
}

fn section(description: &str) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": false, "properties": {} })
}

/// The schema of a section by its table.
fn keys(title: &str, body: &str) -> Value {
    let mut schema = section(title);
    let mut required = Vec::new();
    for line in body.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, default, values, example] = cells[..] else { panic!("five cells: {line}") };
        let name = name.trim_matches('`');
        let mut key = key(name, kind, values);
        key["description"] = described(name, body, default, values).into();
        if let Some(default) = first_span(default).filter(|_| default.starts_with('`')).and_then(value) {
            key["default"] = default;
        }
        let example = first_span(example).and_then(|example| example.split_once(" = "));
        key["examples"] = Value::Array(example.and_then(|(_, example)| value(example)).into_iter().collect());
        if default == "required" {
            required.push(name.to_owned());
        }
        schema["properties"][name] = key;
    }
    if title == "[[service]]" {
        required.push("server".to_owned());
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn key(name: &str, kind: &str, values: &str) -> Value {
    let integer = || match bounds(values) {
        Some((least, most)) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        None => json!({ "type": "integer", "minimum": 0 }),
    };
    let text = || {
        let mut text = Map::from_iter([("type".to_owned(), "string".into())]);
        let words: Vec<Value> = values.split('`').skip(1).step_by(2).filter_map(value).collect();
        if !words.is_empty() && words.iter().all(Value::is_string) {
            text.insert("enum".to_owned(), words.into());
        }
        if let Some((_, pattern)) = PATTERNS.iter().find(|(known, _)| *known == name) {
            text.insert("pattern".to_owned(), (*pattern).into());
        }
        Value::Object(text)
    };
    let array = |items: Value| json!({ "type": "array", "items": items, "minItems": 1 });
    match kind {
        "integer" => integer(),
        "boolean" => json!({ "type": "boolean" }),
        "string" | "path" => text(),
        "array of integers" => array(integer()),
        "array of strings" => array(text()),
        "string, or an array of them" | "string or array of strings" => json!({ "anyOf": [text(), array(text())] }),
        "integer, string, or an array of them" => {
            let one = [integer(), text()];
            json!({ "anyOf": [one[0], one[1], array(json!({ "anyOf": one }))] })
        }
        other => panic!("docs/configuration.md: `{name}` is {other}?"),
    }
}

/// `1 to 100; prime` is 1 and 100.
fn bounds(values: &str) -> Option<(u64, u64)> {
    let (least, rest) = values.split_once(" to ")?;
    let most: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((least.parse().ok()?, most.parse().ok()?))
}

/// What the page says of a key, in a line.
fn described(name: &str, body: &str, default: &str, values: &str) -> String {
    let mut words = String::new();
    let mut lines = body.lines().skip_while(|line| {
        let names = line.strip_prefix("- ").and_then(|item| item.split_once(": ")).map_or("", |(names, _)| names);
        !names.split(", ").any(|known| known.trim_matches('`') == name)
    });
    if let Some(first) = lines.next() {
        words = plain(first).split_once(": ").map_or(String::new(), |(_, text)| text.to_owned());
        for line in lines.take_while(|line| line.starts_with("  ")) {
            words += " ";
            words += plain(line).trim();
        }
        words += " ";
    }
    format!("{words}Values: {}. Default: {}.", plain(values), plain(default))
}

fn first_span(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

/// A value as TOML writes it.
fn value(text: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    serde_json::to_value(&table["value"]).ok()
}
