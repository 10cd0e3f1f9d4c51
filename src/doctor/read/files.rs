//! /proc and /sys.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where their files are read. What lies below the folder, if one is given, is read there in place of the host's own.
#[derive(Clone, Debug, Default)]
pub struct Root(pub Option<PathBuf>);

impl Root {
    pub fn path(&self, path: &str) -> PathBuf {
        let planted = self.0.as_ref().map(|root| root.join(path.trim_start_matches('/')));
        planted.filter(|planted| planted.exists()).unwrap_or_else(|| Path::new(path).to_owned())
    }

    /// Without white space around it.
    pub fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
