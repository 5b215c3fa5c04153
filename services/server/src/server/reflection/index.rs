//! The index of reflection: each name, and the encoded file that declares it.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic_reflection::pb;

use crate::{Contract, contract::without_comments};

/// Services that are served in addition to the mounted ones.
const ALWAYS: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Files of the error details.
const DETAILS: [&str; 2] = ["google/rpc/error_details.proto", "google/rpc/status.proto"];

pub(super) enum Found<'a> {
    Services(&'a [String]),
    File(&'a Bytes),
    Numbers(&'a [i32]),
}

/// The files of the served services, and all their imports.
#[derive(Debug, Default)]
pub(super) struct Index {
    services: Vec<String>,
    files: HashMap<String, Bytes>,
    /// The file of each symbol.
    symbols: HashMap<String, String>,
    /// The file of each extension, by the message that it extends and its number.
    extensions: HashMap<(String, i32), String>,
    /// The numbers of the extensions of each message.
    numbers: HashMap<String, Vec<i32>>,
}

impl Index {
    pub(super) fn new(contract: Option<&Contract>, mounted: &[&str]) -> anyhow::Result<Index> {
        let mut pool = match contract {
            Some(contract) => DescriptorPool::decode(contract.encoded())?,
            None => DescriptorPool::new(),
        };
        let mut additions = details()?;
        for set in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            pb::v1::FILE_DESCRIPTOR_SET,
            pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            additions.extend(FileDescriptorSet::decode(set)?.file);
        }
        // The contract may have brought its own version of a file.
        additions.retain(|file| pool.get_file_by_name(file.name()).is_none());
        pool.add_file_descriptor_protos(additions)?;
        let services: Vec<String> = mounted.iter().chain(&ALWAYS).map(ToString::to_string).collect();
        let declaring = services.iter().filter_map(|name| pool.get_service_by_name(name));
        let mut files: Vec<FileDescriptor> = declaring.map(|service| service.parent_file()).collect();
        files.extend(DETAILS.iter().filter_map(|name| pool.get_file_by_name(name)));
        let mut index = Index {
            services,
            ..Index::default()
        };
        while let Some(file) = files.pop() {
            if !index.files.contains_key(file.name()) {
                index.add(&file)?;
                files.extend(file.dependencies());
            }
        }
        Ok(index)
    }

    pub(super) fn services(&self) -> &[String] {
        &self.services
    }

    pub(super) fn file(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    pub(super) fn file_of_symbol(&self, name: &str) -> Option<&Bytes> {
        self.files.get(self.symbols.get(name)?)
    }

    pub(super) fn file_of_extension(&self, extended: &str, number: i32) -> Option<&Bytes> {
        self.files
            .get(self.extensions.get(&(extended.to_owned(), number))?)
    }

    /// `None` when there is no such message.
    pub(super) fn extension_numbers(&self, extended: &str) -> Option<&[i32]> {
        self.numbers.get(extended).map(Vec::as_slice)
    }

    fn add(&mut self, file: &FileDescriptor) -> anyhow::Result<()> {
        let encoded = file.encode_to_vec();
        // Only the contract's own files keep their comments.
        let is_foreign = ["google/", "buf/"]
            .iter()
            .any(|folder| file.name().starts_with(folder));
        let encoded = if is_foreign {
            without_comments(&encoded)?
        } else {
            encoded
        };
        self.files.insert(file.name().to_owned(), encoded.into());
        let mut symbols = Vec::new();
        for service in file.services() {
            symbols.push(service.full_name().to_owned());
            symbols.extend(service.methods().map(|method| method.full_name().to_owned()));
        }
        file.messages()
            .for_each(|message| self.add_message(&message, &mut symbols));
        file.enums().for_each(|one| add_enum(&one, &mut symbols));
        for extension in file.extensions() {
            symbols.push(extension.full_name().to_owned());
            let extended = extension.containing_message().full_name().to_owned();
            let number = i32::try_from(extension.number())?;
            self.numbers.entry(extended.clone()).or_default().push(number);
            self.extensions.insert((extended, number), file.name().to_owned());
        }
        let placed = symbols.into_iter().map(|symbol| (symbol, file.name().to_owned()));
        self.symbols.extend(placed);
        Ok(())
    }

    fn add_message(&mut self, message: &MessageDescriptor, symbols: &mut Vec<String>) {
        self.numbers.entry(message.full_name().to_owned()).or_default();
        symbols.push(message.full_name().to_owned());
        symbols.extend(message.fields().map(|field| field.full_name().to_owned()));
        symbols.extend(message.oneofs().map(|oneof| oneof.full_name().to_owned()));
        message.child_enums().for_each(|one| add_enum(&one, symbols));
        message
            .child_messages()
            .for_each(|child| self.add_message(&child, symbols));
    }
}

/// The files of the error details, under their usual import paths.
fn details() -> Result<Vec<FileDescriptorProto>, prost::DecodeError> {
    let mut files = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?.file;
    for file in &mut files {
        if !file.name().contains('/') {
            file.name = Some(format!("google/rpc/{}", file.name()));
        }
    }
    Ok(files)
}

fn add_enum(one: &EnumDescriptor, symbols: &mut Vec<String>) {
    symbols.push(one.full_name().to_owned());
    symbols.extend(one.values().map(|value| value.full_name().to_owned()));
}
