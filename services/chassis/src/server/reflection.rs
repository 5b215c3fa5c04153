//! Reflection, v1 and v1alpha, of what the process serves and nothing else.

use anyhow::Context;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

const HEALTH: &str = "grpc.health.v1.Health";

/// Mounts both versions for the services of these names, and health.
pub(super) fn mount(routes: &mut RoutesBuilder, mounted: &[&str]) -> anyhow::Result<()> {
    let served = served(mounted)?;
    let builder = || {
        let builder = Builder::configure()
            .register_file_descriptor_set(served.clone())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH);
        mounted
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let (v1, v1alpha) = (
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    );
    let named = || builder().with_service_name(v1).with_service_name(v1alpha);
    routes.add_service(named().build_v1().context("reflection v1 cannot be built")?);
    routes.add_service(
        named()
            .build_v1alpha()
            .context("reflection v1alpha cannot be built")?,
    );
    Ok(())
}

/// The files that declare these services, and all that they import. Comments stay in the contract's own files, where
/// readers look for them.
fn served(mounted: &[&str]) -> anyhow::Result<FileDescriptorSet> {
    let mut all = FileDescriptorSet::decode(proto::DESCRIPTORS)
        .context("the contract's descriptors are broken")?
        .file;
    let declares = |file: &FileDescriptorProto| {
        file.service
            .iter()
            .any(|service| mounted.contains(&format!("{}.{}", file.package(), service.name()).as_str()))
    };
    let mut wanted: Vec<String> = all
        .iter()
        .filter(|file| declares(file))
        .map(|file| file.name().to_owned())
        .collect();
    let mut at = 0;
    while at < wanted.len() {
        let imports = all
            .iter()
            .find(|file| file.name() == wanted[at])
            .map(|file| file.dependency.clone());
        for import in imports.unwrap_or_default() {
            if !wanted.contains(&import) {
                wanted.push(import);
            }
        }
        at += 1;
    }
    all.retain(|file| wanted.iter().any(|name| name == file.name()));
    for file in &mut all {
        if file.name().starts_with("google/") || file.name().starts_with("buf/") {
            file.source_code_info = None;
        }
    }
    Ok(FileDescriptorSet { file: all })
}
