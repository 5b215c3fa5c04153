//! Writes the AsyncAPI document of the events: `cargo run -p events --example asyncapi -- FILE`.

use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("usage: asyncapi FILE")?;
    let document = events::asyncapi(proto::DESCRIPTORS)?;
    fs::write(file, format!("{document:#}\n"))?;
    Ok(())
}
