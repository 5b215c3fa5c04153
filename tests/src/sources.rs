//! The Rust sources of the workspace.

use std::{fs, path::Path};

/// Calls `visit` with the path and the text of each Rust source below `folder`, without build output and third-party code.
///
/// # Panics
/// When a file cannot be read.
pub fn visit(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout") {
        let path = entry.expect("a readable folder").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_own = !name.starts_with('.') && !["target", "third_party", "node_modules"].contains(&&*name);
        if path.is_dir() && is_own {
            self::visit(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &fs::read_to_string(&path).expect("UTF-8"));
        }
    }
}
