//! Writes the service config of each service into a folder: `cargo run -p tests --example service_config -- FOLDER`.

use std::{env, error::Error, fs, path::Path};

use mesh::{Policies, generate_service_config};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("usage: service_config FOLDER")?;
    let policies = Policies::from_annotated_descriptors(proto::DESCRIPTORS)?;
    for service in ["order", "payment", "claims"] {
        let config = generate_service_config(&policies, &format!("{service}.v1"))
            .ok_or_else(|| format!("the contract has no methods of {service}.v1"))?;
        let path = Path::new(&folder).join(service).with_extension("json");
        fs::write(path, format!("{config:#}\n"))?;
    }
    Ok(())
}
