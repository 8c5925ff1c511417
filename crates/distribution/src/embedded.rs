//! One machine: everything meets in memory and in one folder.
