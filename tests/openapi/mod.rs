//! What `/openapi.json` says, and whether answers are as it says: by a validator of its own.

// Each test binary uses its part.
#![allow(dead_code)]

use serde_json::{Map, Value, json};

/// A description, stricter than it is for others: a key that it does not name is wrong.
pub struct Description(pub Value);

impl Description {
    pub fn new(text: &str) -> Description {
        let mut document: Value = serde_json::from_str(text).expect("JSON");
        close(&mut document["components"]["schemas"]);
        Description(document)
    }

    /// What there is to ask: method in capitals, and path.
    pub fn routes(&self) -> Vec<(String, String)> {
        let paths = self.0["paths"].as_object().expect("paths");
        let methods = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
            item.as_object().expect("methods").keys().map(|method| (method.to_uppercase(), path.clone())).collect()
        };
        paths.iter().flat_map(methods).collect()
    }

    /// The media types of a documented answer, with their schemas.
    pub fn answer(&self, method: &str, path: &str, status: u16) -> &Map<String, Value> {
        let answers = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let content = answers[status.to_string()]["content"].as_object();
        content.unwrap_or_else(|| panic!("{method} {path} is not documented to answer {status}"))
    }

    /// Panics unless a JSON answer is as it is documented.
    pub fn check(&self, method: &str, path: &str, status: u16, body: &str) {
        let schema = &self.answer(method, path, status)["application/json"]["schema"];
        let document: Value = serde_json::from_str(body).expect("JSON");
        let wrong = self.wrong(schema, &document);
        assert!(wrong.is_empty(), "{method} {path}, {status}: {wrong:#?}\nin {document:#}");
    }

    /// What is wrong with a document.
    pub fn wrong(&self, schema: &Value, document: &Value) -> Vec<String> {
        let whole = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::validator_for(&whole).expect("a schema");
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }
}

/// Of each object whose keys are named, no other may be there.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            if keys.get("type") == Some(&json!("object")) && keys.contains_key("properties") {
                keys.entry("additionalProperties").or_insert(json!(false));
            }
            keys.values_mut().for_each(close);
        }
        Value::Array(each) => each.iter_mut().for_each(close),
        _ => {}
    }
}
