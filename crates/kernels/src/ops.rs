//! Element-wise operations and norms, one row at a time.
