//! A headless Chromium in a host of the lab, driven over a pipe by the DevTools protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use crate::network::{Lab, eventually};
use crate::tools::installed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Browser {
    child: Child,
    commands: File,
    answers: BufReader<File>,
    folder: PathBuf,
    session: Option<String>,
    count: u64,
    /// What the browser complained about: broken policies, exceptions.
    pub complaints: Vec<String>,
}

impl Browser {
    /// `None`: there is none, and it says so. `scripts/setup.sh --browser` installs it.
    pub fn start(lab: &Lab, host: &str) -> Option<Browser> {
        if !installed("chromium") {
            return None;
        }
        let folder = lab.file("browser");
        fs::create_dir_all(&folder).unwrap();
        let [commands, answers] = ["commands", "answers"].map(|name| folder.join(name));
        for pipe in [&commands, &answers] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        // It reads from descriptor 3 and writes to 4. Each end of a pipe is opened in the order in which the shell does it.
        let script = format!(
            "exec 3<{} 4>{}; exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --disable-background-networking --disable-component-update --user-data-dir={}/profile \
             --remote-debugging-pipe about:blank",
            commands.display(),
            answers.display(),
            folder.display()
        );
        let mut command = lab.command(host, "bash");
        command.args(["-c", &script]).env("HOME", &folder).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let commands = File::options().write(true).open(commands).unwrap();
        let answers = BufReader::new(File::open(answers).unwrap());
        let mut browser = Browser { child, commands, answers, folder, session: None, count: 0, complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text that a person sees of an element.
    pub fn text(&mut self, id: &str) -> String {
        let text = self.value(&format!("document.getElementById({id:?})?.innerText ?? ''"));
        text.as_str().unwrap().replace(['\n', '\t', '\u{a0}'], " ")
    }

    pub fn wait_for(&mut self, id: &str, text: &str) {
        eventually(&format!("#{id} says {text:?}"), || {
            let there = self.text(id).contains(text);
            if !there {
                std::thread::sleep(Duration::from_millis(50));
            }
            there
        });
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// A picture of the whole page, kept where `ONEIP_SCREENSHOTS` says, if it does.
    pub fn picture(&mut self, name: &str) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        if let Some(folder) = std::env::var_os("ONEIP_SCREENSHOTS") {
            fs::write(Path::new(&folder).join(format!("{name}.png")), &png).unwrap();
        }
        png
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.count += 1;
        let mut message = json!({"id": self.count, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut text = Vec::new();
            self.answers.read_until(0, &mut text).unwrap();
            assert!(!text.is_empty(), "the browser has ended");
            let answer: Value = serde_json::from_slice(&text[..text.len() - 1]).unwrap();
            if answer["id"] == self.count {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let method = event["method"].as_str().unwrap_or_default();
        let entry = &event["params"]["entry"];
        // What the network refuses is a part of tests; what a policy forbids has another source.
        let is_refused = entry["source"] == "network";
        let is_bad = method == "Runtime.exceptionThrown" || (method == "Log.entryAdded" && entry["level"] == "error");
        if is_bad && !is_refused {
            self.complaints.push(event.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
