//! Compiling: what an upload is, whether it can be served, and its native code.
