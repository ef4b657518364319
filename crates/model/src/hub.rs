//! Model names to paths, downloading when needed.
