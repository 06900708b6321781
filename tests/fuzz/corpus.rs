//! The committed corpus and mutations of it, through every target. A new input is a file named by what it is; in `check`
//! the name also says whether the request may pass.

use std::{fs, path::Path};

use crate::{
    TARGETS, Target,
    check::is_allowed,
    mutate::{Random, mutate},
};

const MUTATIONS: usize = 1_000;

/// Name and content of every input of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 10, "{} inputs in {}", found.len(), folder.display());
    found
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Says on failure which input it was: the panic's own message follows.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input of {}: {}", self.0, self.1.escape_ascii());
        }
    }
}

#[track_caller]
fn run(name: &str) {
    let (inputs, target) = (corpus(name), target(name));
    for (input, data) in &inputs {
        let _told = Told(input, data);
        target(data);
    }
    let mut random = Random::new(0x6d63_702d_6175_7468);
    for (input, data) in inputs.iter().cycle().take(MUTATIONS) {
        let (_, other) = &inputs[random.below(inputs.len())];
        let mutant = mutate(data, other, &mut random);
        let _told = Told(input, &mutant);
        target(&mutant);
    }
}

#[test]
fn every_check_request_keeps_its_properties() {
    run("check");
}

#[test]
fn every_evaluation_keeps_its_properties() {
    run("evaluate");
}

#[test]
fn every_set_of_headers_keeps_its_properties() {
    run("headers");
}

#[test]
fn every_masked_result_keeps_its_properties() {
    run("mask");
}

#[test]
fn every_message_keeps_its_properties() {
    run("parse");
}

#[test]
fn every_policy_keeps_its_properties() {
    run("policy");
}

#[test]
fn every_response_keeps_its_properties() {
    run("response");
}

#[test]
fn every_settle_token_keeps_its_properties() {
    run("settle");
}

/// Or the targets would hold their properties by refusing everything.
#[test]
fn check_requests_are_decided_as_their_names_say() {
    for (name, data) in corpus("check") {
        assert_eq!(is_allowed(&data), name.starts_with("allow-"), "{name}");
    }
}
