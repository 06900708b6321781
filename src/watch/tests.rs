use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A folder as the kubelet keeps it.
struct Mount {
    folder: PathBuf,
    version: u32,
}

impl Mount {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut mount = Self { folder, version: 0 };
        mount.swap();
        mount
    }

    /// The next version takes the place of the last one, which is removed.
    fn swap(&mut self) {
        let (old, new) = (format!("..{}", self.version), format!("..{}", self.version.saturating_add(1)));
        fs::create_dir(self.folder.join(&new)).unwrap();
        symlink(&new, self.folder.join("..data_tmp")).unwrap();
        fs::rename(self.folder.join("..data_tmp"), self.folder.join(MOUNTED)).unwrap();
        if self.version > 0 {
            fs::remove_dir(self.folder.join(old)).unwrap();
        }
        self.version = self.version.saturating_add(1);
    }
}

fn scene() -> (TempDir, Folders) {
    let folder = tempfile::tempdir().unwrap();
    let settings = "listen: {grpc: [\"tcp://127.0.0.1:0\"], admin: \"127.0.0.1:0\"}\n\
                    tls: {certificate: tls/tls.crt, key: keys/tls.key, client_ca: ca/ca.crt}\n\
                    paths: {servers: servers/servers.yaml}\nadmin: {token_file: admin/token}\n";
    fs::write(folder.path().join("config.yaml"), settings).unwrap();
    let config = Config::load(&folder.path().join("config.yaml")).unwrap();
    let folders = Folders::of(&folder.path().join("config.yaml"), &config);
    (folder, folders)
}

#[test]
fn every_mount_that_a_reload_reads_is_looked_at() {
    let (folder, folders) = scene();
    let names = ["", "policies", "servers", "grants", "credentials", "credentials/crm", "tls", "keys", "ca", "admin"];
    let mut mounts: Vec<Mount> = names.iter().map(|name| Mount::new(folder.path().join(name))).collect();
    for (name, mount) in names.iter().zip(&mut mounts) {
        let before = folders.look();
        assert_eq!(folders.look(), before, "{name}");
        mount.swap();
        let after = folders.look();
        assert_eq!(after.changed_since(&before), [folder.path().join(name).as_path()], "{name}");
    }
}

#[test]
fn a_plain_folder_changes_only_if_another_one_takes_its_place() {
    let (folder, folders) = scene();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    for path in [&one, &two] {
        fs::create_dir(path).unwrap();
    }
    let policies = folder.path().join("policies");
    symlink("one", &policies).unwrap();
    let before = folders.look();
    fs::write(one.join("p.yaml"), "half of a cha").unwrap();
    assert_eq!(folders.look(), before, "nobody knows whether all is written");
    fs::remove_file(&policies).unwrap();
    assert_eq!(folders.look().changed_since(&before), [policies.as_path()], "it is gone");
    symlink("two", &policies).unwrap();
    assert_eq!(folders.look().changed_since(&before), [policies.as_path()], "and it is another one");
}

#[test]
fn only_so_many_folders_of_credentials_are_looked_at() {
    let (folder, folders) = scene();
    let credentials = folder.path().join("credentials");
    for n in 0..CREDENTIAL_FOLDERS_MAX {
        fs::create_dir_all(credentials.join(format!("{n:04}"))).unwrap();
    }
    let at_the_limit = folders.look().0.len();
    fs::create_dir(credentials.join("9999")).unwrap();
    assert_eq!(folders.look().0.len(), at_the_limit);
    assert!(folders.look().0.contains_key(&credentials.join("0999")));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_once_and_the_next_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut mount = Mount::new(folder.path().join("tls"));
    let file = folder.path().join("tls/tls.crt");
    let mut watch = Watch::new(Folders::of_files([file.as_path()]), Duration::from_secs(1));
    for _ in 0..2 {
        mount.swap();
        let begun = Instant::now();
        assert_eq!(watch.changed().await, [folder.path().join("tls").display().to_string()]);
        assert!(begun.elapsed() <= Duration::from_secs(1), "not at the first look");
        let quiet = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
        assert!(quiet.is_err(), "nothing has changed");
    }
}
