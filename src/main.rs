//! The `mcp-authz` binary.

fn main() {}
