//! The HTTP API: native and dialects, auth, problems, limits.
