//! Compiles the contracts with protox (no `protoc`) and keeps the descriptor set for reflection,
//! validation and policies.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use protox::Compiler;

fn main() -> Result<(), Box<dyn Error>> {
    let files = contract_files()?;
    println!("cargo:rerun-if-changed=.");

    let mut compiler = Compiler::new([".", "third_party"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;

    // Only the encoded form keeps the extension options, which are the mesh's policies.
    let encoded = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), &encoded)?;
    fs::write(
        out.join("schema.bin"),
        compiler.include_source_info(false).encode_file_descriptor_set(),
    )?;

    let set = prost_types::FileDescriptorSet::decode(encoded.as_slice())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .include_file("mod.rs")
        .compile_fds_with_config(set, config)?;
    Ok(())
}

/// Every `.proto` below a package folder; a new package needs no change here.
fn contract_files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(".")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("third_party") && !path.ends_with("src") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path.strip_prefix(".")?.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}
