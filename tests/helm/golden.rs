//! What the least values render, word for word: a change of a default is seen in review.

use super::chart::{render, root};

/// `MCP_AUTHZ_GOLDEN=write cargo test --test helm golden` writes it anew.
#[test]
fn the_quickstart_renders_what_it_did() {
    let file = root().join("tests/helm/golden/quickstart.yaml");
    let rendered = render("quickstart", &serde_json::Value::Null);
    if std::env::var_os("MCP_AUTHZ_GOLDEN").is_some_and(|word| word == "write") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &rendered).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    let differs = golden.lines().zip(rendered.lines()).find(|(golden, rendered)| golden != rendered);
    assert!(
        golden == rendered,
        "the first line that differs: {differs:?}; if it is meant, MCP_AUTHZ_GOLDEN=write cargo test --test helm golden"
    );
}
