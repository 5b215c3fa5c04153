//! Compiles gRPC's interoperability contract (`proto/`) with protox, as the crate `proto` does with ours.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use protox::Compiler;

/// In the order of their imports.
const FILES: [&str; 3] = [
    "src/proto/grpc/testing/empty.proto",
    "src/proto/grpc/testing/messages.proto",
    "src/proto/grpc/testing/test.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../proto");

    let mut compiler = Compiler::new(["proto", "../proto", "../proto/third_party"])?;
    // What they import is in the descriptors of the crate `proto`.
    compiler.include_imports(false).open_files(FILES)?;
    // Only the encoded form keeps the extension options.
    let encoded = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("interop.bin"), &encoded)?;

    let set = prost_types::FileDescriptorSet::decode(encoded.as_slice())?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
