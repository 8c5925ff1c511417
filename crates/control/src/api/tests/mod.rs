//! The API through its router, over a real distribution and real records.
