//! The whole platform, through its front doors: what the README promises, as sentences.

mod bodies;
mod command_line;
mod compile_bombs;
mod deployments;
mod examples;
mod flips;
mod guests;
mod hostile_api;
mod hostile_cpu;
mod hostile_engine;
mod hostile_http;
mod hostile_memory;
mod hostile_requests;
mod lifetimes;
mod limits;
mod machine;
mod operator;
mod parked;
mod reference;
mod requests;
mod siege;
mod tokens;
mod uploads;
