//! `weft env`: shell variables for other tools that call the local system.

use crate::{
    failure::Failure,
    globals::{Format, Globals},
    token::Bearer,
    workspace::Workspace,
};

/// Prints shell variables for `eval "$(weft env)"`: `ORDER`, `ORDER_PROBE` and so on, as `host:port`, `NATS` and
/// `POSTGRESQL` as URLs, and `TOKEN`; under mutual TLS also `CA`, `CERT` and `KEY`, the paths of PEM files.
pub(crate) fn run(globals: &Globals) -> Result<(), Failure> {
    let workspace = Workspace::find(globals);
    let description = workspace.read_description().ok_or_else(|| {
        Failure::Usage(format!(
            "nothing was started in {} yet: run `weft up` first",
            workspace.path().display()
        ))
    })?;
    let mut variables = Vec::new();
    for (service, addresses) in &description.services {
        let name = service.to_uppercase();
        variables.push((format!("{name}_PROBE"), host_and_port(&addresses.probe_url)));
        variables.push((name, host_and_port(&addresses.url)));
    }
    for (server, url) in &description.servers {
        variables.push((server.to_uppercase(), url.clone()));
    }
    variables.push((
        "TOKEN".to_owned(),
        Bearer::from_globals(globals)?.token()?.to_string(),
    ));
    if let Some(tls) = &description.tls {
        for (name, path) in [("CA", &tls.ca), ("CERT", &tls.cert), ("KEY", &tls.key)] {
            variables.push((name.to_owned(), path.display().to_string()));
        }
    }
    match globals.output {
        Format::Table => variables
            .iter()
            .for_each(|(name, value)| println!("export {name}='{value}'")),
        Format::Json => println!("{}", variables.into_iter().collect::<serde_json::Value>()),
    }
    Ok(())
}

/// `127.0.0.1:7101` for `http://127.0.0.1:7101`.
pub(crate) fn host_and_port(url: &str) -> String {
    url.rsplit('/').next().unwrap_or_default().to_owned()
}
