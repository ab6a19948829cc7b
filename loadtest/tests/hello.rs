//! The bare responder, as the comparison starts it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

#[test]
fn it_tells_its_address_answers_and_ends_with_its_input() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["hello", "--shards", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut address = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("it tells its address");
    // More connections than shards, so that one shard has two.
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address.trim()).expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nhello"), "{reply}");
    }
    drop(process.stdin.take());
    assert!(process.wait().expect("it ends").success());
}
