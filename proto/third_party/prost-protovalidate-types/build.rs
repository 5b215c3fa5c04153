//! Generates the types of `buf/validate/validate.proto` without `protoc`: protox writes the descriptor set that
//! prost-build would otherwise ask `protoc` for.

use std::{env, error::Error, fs, path::PathBuf};

const INCLUDE: &str = "..";
const FILE: &str = "buf/validate/validate.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={INCLUDE}/{FILE}");
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(FILE)?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("file_descriptor_set.bin");
    // Only the encoded form keeps the extensions.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(&path, &encoded)?;

    let mut config = prost_build::Config::new();
    config.file_descriptor_set_path(&path).skip_protoc_run();
    if env::var_os("CARGO_FEATURE_REFLECT").is_some() {
        let mut reflect = prost_reflect_build::Builder::new();
        reflect.file_descriptor_set_path(&path).descriptor_pool("DESCRIPTOR_POOL");
        reflect.compile_protos_with_config(config, &[FILE], &[INCLUDE])?;
    } else {
        config.compile_protos(&[FILE], &[INCLUDE])?;
    }
    Ok(())
}
