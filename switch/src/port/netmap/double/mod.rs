//! A netmap in user space, for tests and for the demo where the module is not loaded.
