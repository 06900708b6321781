use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn unix(folder: &tempfile::TempDir) -> (Endpoint, PathBuf) {
    let path = folder.path().join("authz.sock");
    (Endpoint::Unix(path.clone()), path)
}

#[test]
fn both_schemes_are_read_and_written_alike() {
    for text in ["tcp://127.0.0.1:9191", "tcp://[::1]:0", "unix:///run/mcp-authz/authz.sock"] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
}

#[test]
fn other_texts_are_refused_with_an_example() {
    for text in ["", "127.0.0.1:9191", "http://127.0.0.1:1", "TCP://127.0.0.1:1", "unix:/run/x"] {
        assert!(matches!(text.parse::<Endpoint>(), Err(EndpointError::Scheme { .. })), "{text}");
    }
    for text in ["tcp://", "tcp://localhost:9191", "tcp://127.0.0.1", "tcp://127.0.0.1:65536", "tcp://::1:80"] {
        assert!(matches!(text.parse::<Endpoint>(), Err(EndpointError::Address { .. })), "{text}");
    }
    for text in ["unix://", "unix://run/x", "unix:///", "unix:///run/"] {
        assert!(matches!(text.parse::<Endpoint>(), Err(EndpointError::Path { .. })), "{text}");
    }
    let error = "tcp://localhost:9191".parse::<Endpoint>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`tcp://localhost:9191` needs an IP address and a port, like `tcp://127.0.0.1:9191` or `tcp://[::]:9191`"
    );
}

#[test]
fn the_port_that_the_system_chose_is_reported() {
    let bound = Bound::open(&"tcp://127.0.0.1:0".parse().unwrap()).unwrap();
    let Endpoint::Tcp(address) = bound.endpoint().unwrap() else { panic!("tcp") };
    assert_ne!(address.port(), 0);
}

#[test]
fn a_taken_port_says_so() {
    let first = Bound::open(&"tcp://127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = first.endpoint().unwrap();
    let error = Bound::open(&endpoint).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot listen on `{endpoint}`: the port is taken; stop the other process or choose another port")
    );
}

#[test]
fn only_owner_and_group_may_connect() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    let _bound = Bound::open(&endpoint).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary name is gone");
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the file of a dead process stays behind");
    let _bound = Bound::open(&endpoint).unwrap();
    UnixStream::connect(path).unwrap();
}

#[test]
fn a_served_socket_is_left_alone() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    let _first = Bound::open(&endpoint).unwrap();
    assert!(matches!(Bound::open(&endpoint), Err(BindError::InUse { .. })));
    UnixStream::connect(path).unwrap();
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Bound::open(&endpoint), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
}

#[test]
fn a_missing_folder_says_so() {
    let endpoint = Endpoint::Unix(folder().path().join("gone/authz.sock"));
    let error = Bound::open(&endpoint).unwrap_err().to_string();
    assert_eq!(error, format!("cannot listen on `{endpoint}`: the folder does not exist; create it first"));
}

#[test]
fn a_long_path_says_so() {
    let endpoint = Endpoint::Unix(folder().path().join("x".repeat(200)));
    let error = Bound::open(&endpoint).unwrap_err().to_string();
    assert!(error.ends_with("the path is too long for a socket; the limit is about 100 bytes"), "{error}");
}

#[test]
fn the_file_goes_with_the_listener() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    drop(Bound::open(&endpoint).unwrap());
    assert!(!path.exists());
}

#[test]
fn the_file_of_a_successor_stays() {
    let folder = folder();
    let (endpoint, path) = unix(&folder);
    let first = Bound::open(&endpoint).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = Bound::open(&endpoint).unwrap();
    drop(first);
    UnixStream::connect(path).unwrap();
}
