//! The image: the Dockerfile is sound, what it copies is enough to build, and nothing else gets into the context.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{root, succeeds, text, tool};

const DOCKERFILE: &str = "deploy/Dockerfile";
const IGNORE: &str = "deploy/Dockerfile.dockerignore";

/// Every instruction in one line, without comments.
fn instructions() -> Vec<String> {
    let text = text(DOCKERFILE);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    joined
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect()
}

/// What is copied from the context, in the stage that builds or in the last one.
fn copied(from_stage: usize) -> Vec<String> {
    let mut stage = 0;
    let mut sources = Vec::new();
    for line in instructions() {
        stage += usize::from(line.starts_with("FROM "));
        let Some(words) = line.strip_prefix("COPY ").filter(|words| !words.contains("--from=")) else { continue };
        let words: Vec<&str> = words.split(' ').filter(|word| !word.starts_with("--")).collect();
        if stage == from_stage {
            sources.extend(words[..words.len() - 1].iter().map(|word| (*word).to_owned()));
        }
    }
    sources
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            // Builds of other workspaces are ignored by the context too.
            if name != "target" && name != "node_modules" {
                copy(&from.join(&name), &to.join(&name));
            }
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_dockerfile_is_sound() {
    succeeds(Command::new(tool("hadolint")).args(["--failure-threshold", "info"]).arg(root().join(DOCKERFILE)));
}

#[test]
fn what_is_copied_is_enough_to_build() {
    let folder = tempfile::tempdir().unwrap();
    for source in copied(1) {
        copy(&root().join(&source), &folder.path().join(&source));
    }
    let said = succeeds(Command::new(env!("CARGO")).current_dir(folder.path()).env_remove("CARGO_TARGET_DIR").args([
        "metadata",
        "--locked",
        "--offline",
        "--format-version",
        "1",
        "--quiet",
    ]));
    let metadata: serde_json::Value = serde_json::from_str(&said).unwrap();
    let ours: Vec<&serde_json::Value> =
        metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()).collect();
    let targets: Vec<PathBuf> = ours
        .iter()
        .flat_map(|package| package["targets"].as_array().unwrap())
        .map(|target| PathBuf::from(target["src_path"].as_str().unwrap()))
        .collect();
    assert!(targets.iter().all(|target| target.exists()), "{targets:?}");
    // What the sources include is below what is copied.
    let mut folders = vec![folder.path().join("src")];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(&path).unwrap();
                for included in code.split("include_str!(\"").skip(1).map(|rest| rest.split_once('"').unwrap().0) {
                    assert!(at.join(included).exists(), "{} includes {included}, which is not copied", path.display());
                }
            }
        }
    }
}

#[test]
fn the_context_holds_what_is_copied_and_nothing_else() {
    let ignore = text(IGNORE);
    let rules: Vec<&str> = ignore.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rules[0], "*");
    let let_in: BTreeSet<String> = rules.iter().filter_map(|rule| rule.strip_prefix('!')).map(str::to_owned).collect();
    assert_eq!(let_in, copied(1).into_iter().chain(copied(2)).collect());
}

#[test]
fn the_image_is_what_the_pages_promise() {
    let lines = instructions();
    let images: Vec<&String> = lines.iter().filter(|line| line.contains("_IMAGE=")).collect();
    assert_eq!(images.len(), 2);
    for image in images {
        let (name, digest) = image.split_once("@sha256:").unwrap();
        assert!(name.rsplit_once(':').is_some() && digest.len() == 64, "{image}");
    }
    for line in [
        "USER 65532:65532",
        "EXPOSE 9191 9192 9443",
        "ENTRYPOINT [\"/usr/local/bin/mcp-authz\"]",
        "CMD [\"serve\", \"--config\", \"/etc/mcp-authz/config.yaml\"]",
    ] {
        assert!(lines.iter().any(|have| have == line), "{line}");
    }
    let build = lines.iter().find(|line| line.contains("cargo auditable build")).unwrap();
    assert!(build.contains("--locked --release --package mcp-authz --bin mcp-authz"), "{build}");
    assert!(!lines.iter().any(|line| line.starts_with("ADD ") || line.contains("curl") || line.contains("apt-get")));
    // The compiler is one that the manifest allows, and the one that the workflow tests with.
    let pinned =
        lines.iter().find_map(|line| line.split_once("/rust:")).unwrap().1.split('-').next().unwrap().to_owned();
    assert!(text(".github/workflows/ci.yml").contains(&format!("rustup default {pinned}\n")));
}
