use super::*;

fn ping(connection: &mut Connection) -> Value {
    connection.call(&["PING"]).unwrap()
}

#[test]
fn it_answers_on_its_socket_and_its_port_and_is_gone_after_a_drop() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    assert_eq!(ping(&mut server.connect()), Value::Simple("PONG".into()));
    assert_eq!(server.cli(&["CONFIG", "GET", "port"]), format!("port\n{}", server.port()));
    assert_eq!(server.cli(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nallkeys-lru");
    let (pid, folder) = (server.child.id(), server.folder().to_owned());
    drop(server);
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    assert!(!folder.exists());
}

#[test]
fn values_of_every_kind_are_read() {
    let server = RedisServer::start(&[]);
    let script = "return {1, 'a\\r\\nb', {}, false, redis.status_reply('FINE'), {-5}}";
    let answer = server.connect().call(&["EVAL", script, "0"]).unwrap();
    let fine = Value::Simple("FINE".into());
    let many = [Value::Int(1), Value::Bulk("a\r\nb".into()), Value::Array(vec![]), Value::Nil, fine];
    assert_eq!(answer.items()[..5], many);
    assert_eq!(answer.items()[5].items()[0].int(), Some(-5));
    let complaint = server.connect().call(&["NONSENSE"]).unwrap();
    assert!(matches!(complaint, Value::Error(text) if text.starts_with("ERR unknown command")));
}

#[test]
fn a_stopped_one_answers_when_it_goes_on_and_a_killed_one_comes_back_empty() {
    let mut server = RedisServer::start(&[]);
    let mut connection = server.connect();
    connection.call(&["SET", "a", "b"]).unwrap();
    server.stop();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| ping(&mut connection));
        server.cont();
        assert_eq!(answer.join().unwrap(), Value::Simple("PONG".into()));
    });
    server.kill();
    assert!(connection.call(&["PING"]).is_err());
    server.restart();
    assert_eq!(server.connect().call(&["EXISTS", "a"]).unwrap(), Value::Int(0));
}

#[test]
fn a_server_that_refuses_its_options_shows_why() {
    let refused = std::panic::catch_unwind(|| RedisServer::start(&["--maxmemory-policy", "whatever"]));
    let text = *refused.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("redis-server ended at once"), "{text}");
}
