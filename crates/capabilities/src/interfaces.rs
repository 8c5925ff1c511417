//! The interfaces Midge knows.
