use std::sync::LazyLock;

/// The version of this build: `0.1.0+4e1f0c2a9b71`. The variable `WEFT_BUILD` overrides it at run time, for
/// example with the image's tag; the default is set at compile time (`scripts/build_identity.rs`).
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
