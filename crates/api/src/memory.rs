//! How the allocator of a process of an environment takes memory from the system.

/// For processes that need little: memory is taken as it is used, in pages of the usual size. By itself the allocator
/// takes it in large stretches and asks the kernel for huge pages, of 2 MiB each, which a gateway with a million jobs
/// is faster for, and of which any other process would leave most unused (decision 25). Read by mimalloc when the
/// process starts.
pub const SPARING: (&str, &str) = ("MIMALLOC_ARENA_EAGER_COMMIT", "0");
