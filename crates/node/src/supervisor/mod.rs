//! The supervisor: follows the catalog, keeps artifacts, owns listening sockets, and keeps workers alive.
