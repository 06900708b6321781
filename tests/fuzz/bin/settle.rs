//! libFuzzer around `mcp_authz_fuzz::settle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_authz_fuzz::settle(data));
