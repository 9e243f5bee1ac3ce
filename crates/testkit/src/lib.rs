//! Test helpers: a receiver that misbehaves on request, certificates, a scripted resolver.
