//! The worker: accepts, routes and runs guests on one core.
