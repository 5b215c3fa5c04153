//! The migrations are part of the program: a new one must compile it again.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/events");
    println!("cargo:rerun-if-changed=../../migrations/payment");
}
