//! Outgoing HTTP: only to vetted addresses, within deadlines, with bounded reads.
