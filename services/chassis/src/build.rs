use std::sync::LazyLock;

/// Which build this process is: `0.1.0+4e1f0c2a9b71`. The variable `WEFT_BUILD` says it if it is set where the process
/// starts, such as the image's tag; else what the build itself knew (`scripts/build_identity.rs`).
pub fn build() -> &'static str {
    static BUILD: LazyLock<String> = LazyLock::new(|| {
        let said = std::env::var("WEFT_BUILD").unwrap_or_default();
        if said.trim().is_empty() {
            env!("WEFT_BUILD").to_owned()
        } else {
            said.trim().to_owned()
        }
    });
    &BUILD
}
