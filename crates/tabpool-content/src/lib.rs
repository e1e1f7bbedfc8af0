//! Content-addressed model storage: CIDs, UnixFS directories, block stores.
