//! The whole platform, through its front doors: what the README promises, as sentences.

mod bodies;
mod command_line;
mod deployments;
mod examples;
mod guests;
mod hostile_engine;
mod hostile_http;
mod lifetimes;
mod limits;
mod machine;
mod operator;
mod reference;
mod requests;
mod tokens;
mod uploads;
