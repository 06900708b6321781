//! Volumes as a kubelet lays them out: a folder of one version, `..data` that leads to it, and a link for each file.
//!
//! A kubelet mounts them at absolute paths. Here all of them stand below a folder of the test, and the same prefix is put before
//! every absolute path that the pod names, so that the test needs neither root nor namespaces of the kernel, which many machines
//! of developers and of CI deny. What that cannot show, a file system that is read-only and a user without rights, is in the rendered
//! security context, which `safety.rs` holds.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::chart::{Manifests, RELEASE, tree};

/// Keys and contents of each Secret.
pub(crate) type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;
/// Files of a volume and their modes, by path within it.
type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// What a kubelet knows of one container.
pub(crate) struct Pod {
    /// The spec of the pod.
    pub(crate) spec: Value,
    /// The container that runs the program.
    pub(crate) container: Value,
    /// Where `/` is.
    pub(crate) root: PathBuf,
    /// Versions that were laid out.
    versions: u32,
}

impl Pod {
    /// The pod of the release, or the one that its patch for a sidecar makes, laid out below the folder.
    pub(crate) fn lay_out(manifests: &Manifests, secrets: &Secrets, root: &Path) -> Self {
        let patch = manifests.kind("ConfigMap").into_iter().find_map(|map| map["data"]["patch.yaml"].as_str());
        let (spec, container) = match patch {
            Some(patch) => {
                let spec = tree(patch)["spec"]["template"]["spec"].clone();
                let container = spec["initContainers"][0].clone();
                (spec, container)
            }
            None => {
                let spec = manifests.pod()["spec"].clone();
                let container = spec["containers"][0].clone();
                (spec, container)
            }
        };
        let mut pod = Self { spec, container, root: root.to_owned(), versions: 0 };
        pod.update(manifests, secrets);
        pod
    }

    /// Lays out what objects hold now; what stands there is replaced as a kubelet does, by one rename for each volume.
    pub(crate) fn update(&mut self, manifests: &Manifests, secrets: &Secrets) {
        self.versions = self.versions.checked_add(1).unwrap();
        for mount in self.container["volumeMounts"].as_array().unwrap() {
            let name = &mount["name"];
            let volumes = self.spec["volumes"].as_array().unwrap();
            let volume =
                volumes.iter().find(|volume| volume["name"] == *name).unwrap_or_else(|| panic!("no volume {name}"));
            let target = self.path(mount["mountPath"].as_str().unwrap());
            let Some(files) = files(volume, manifests, secrets) else {
                fs::create_dir_all(&target).unwrap();
                continue;
            };
            match mount["subPath"].as_str() {
                // A file is mounted once and for all: it never changes while the pod runs.
                Some(_) if target.exists() => {}
                Some(file) => {
                    fs::create_dir_all(target.parent().unwrap()).unwrap();
                    fs::write(&target, self.rewritten(&files[file].0)).unwrap();
                }
                None => self.swap(&target, &files),
            }
        }
    }

    /// A path of the container, as this machine knows it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// Puts the prefix before the absolute paths in a text.
    pub(crate) fn prefixed(&self, text: &str) -> String {
        let folders = ["/etc/mcp-authz", "/run/mcp-authz", "/var/lib/mcp-authz", "/var/log/mcp-authz"];
        folders
            .into_iter()
            .fold(text.to_owned(), |text, folder| text.replace(folder, &self.path(folder).display().to_string()))
    }

    fn rewritten(&self, bytes: &[u8]) -> String {
        self.prefixed(std::str::from_utf8(bytes).unwrap())
    }

    fn swap(&self, target: &Path, files: &Files) {
        let version = format!("..version-{}", self.versions);
        for (name, (bytes, mode)) in files {
            let file = target.join(&version).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, bytes).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).unwrap();
        }
        fs::create_dir_all(target.join(&version)).unwrap();
        let old = fs::read_link(target.join("..data")).ok();
        symlink(&version, target.join("..data_tmp")).unwrap();
        fs::rename(target.join("..data_tmp"), target.join("..data")).unwrap();
        for name in files.keys() {
            let link = target.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let Some(old) = old else { return };
        for entry in fs::read_dir(target.join(&old)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !files.contains_key(&name) {
                fs::remove_file(target.join(name)).unwrap();
            }
        }
        fs::remove_dir_all(target.join(old)).unwrap();
    }
}

/// What a volume holds; `None` for one that the process writes to.
fn files(volume: &Value, manifests: &Manifests, secrets: &Secrets) -> Option<Files> {
    if let Some(projected) = volume.get("projected") {
        let mode = mode_of(projected);
        let mut files = Files::new();
        for source in projected["sources"].as_array().unwrap() {
            for (name, file) in source_files(source, mode, manifests, secrets) {
                assert!(files.insert(name.clone(), file).is_none(), "two sources hold {name}");
            }
        }
        return Some(files);
    }
    ["configMap", "secret"].iter().any(|kind| volume.get(kind).is_some()).then(|| {
        let mode = mode_of(volume.get("secret").unwrap_or(&volume["configMap"]));
        source_files(volume, mode, manifests, secrets)
    })
}

fn mode_of(volume: &Value) -> u32 {
    volume["defaultMode"].as_u64().map_or(0o644, |mode| u32::try_from(mode).unwrap())
}

fn source_files(source: &Value, mode: u32, manifests: &Manifests, secrets: &Secrets) -> Files {
    let held: BTreeMap<String, Vec<u8>> = if let Some(map) = source.get("configMap") {
        let object = manifests.object("ConfigMap", map["name"].as_str().unwrap());
        let data = object["data"].as_object().unwrap();
        data.iter().map(|(key, text)| (key.clone(), text.as_str().unwrap().as_bytes().to_vec())).collect()
    } else {
        let secret = &source["secret"];
        let name = secret.get("name").unwrap_or(&secret["secretName"]).as_str().unwrap();
        secrets.get(name).unwrap_or_else(|| panic!("no Secret {name}")).clone()
    };
    let items = source.get("secret").and_then(|secret| secret.get("items"));
    match items {
        None => held.into_iter().map(|(key, bytes)| (key, (bytes, mode))).collect(),
        Some(items) => items
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let key = item["key"].as_str().unwrap();
                let bytes = held.get(key).unwrap_or_else(|| panic!("the Secret has no key {key}"));
                (item["path"].as_str().unwrap().to_owned(), (bytes.clone(), mode))
            })
            .collect(),
    }
}

/// The name of everything in the release.
pub(crate) fn full_name() -> String {
    format!("{RELEASE}-mcp-authz")
}
