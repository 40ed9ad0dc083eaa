//! Looking into a store file by file, by ordinary reads: for tools, and for stores that do not open.
