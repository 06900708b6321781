//! A volume of Kubernetes, played: versions in hidden folders, and one link that is moved, as `AtomicWriter` of the kubelet does it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// One mounted ConfigMap, Secret or projected volume.
pub(crate) struct Volume {
    folder: PathBuf,
    versions: u32,
}

impl Volume {
    /// Mounts the first version.
    pub(crate) fn mount(folder: PathBuf, files: &[(&str, &str)]) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut volume = Self { folder, versions: 0 };
        volume.update(files);
        volume
    }

    /// Replaces all files by one move of a link, and then removes the old ones.
    pub(crate) fn update(&mut self, files: &[(&str, &str)]) {
        self.versions += 1;
        let at = |name: &str| self.folder.join(name);
        let version = format!("..2026_11_21_05_33_52.{}", self.versions);
        fs::create_dir(at(&version)).unwrap();
        for (name, text) in files {
            let path = at(&version).join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let old = fs::read_link(at("..data")).ok();
        symlink(&version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        for (name, _) in files.iter().filter(|(name, _)| at(name).symlink_metadata().is_err()) {
            symlink(Path::new("..data").join(name), at(name)).unwrap();
        }
        let Some(old) = old else { return };
        for entry in fs::read_dir(at(old.to_str().unwrap())).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !files.iter().any(|(kept, _)| *kept == name) {
                fs::remove_file(at(&name)).unwrap();
            }
        }
        fs::remove_dir_all(self.folder.join(old)).unwrap();
    }
}
