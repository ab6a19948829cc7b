//! Real Redis servers, from the machine's `redis-server`: one, one with a replica that Sentinels watch, or a Cluster. They end with
//! the test, however it ends.

use std::{
    io::Write as _,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// The password of every server; it has to be encoded in a URL.
const PASSWORD: &str = "s@cret/1";
const ENCODED_PASSWORD: &str = "s%40cret%2F1";
/// The name that Sentinels know the service by.
const SERVICE: &str = "main";

/// A server (or a Sentinel) in a folder of its own.
pub struct RedisServer {
    process: Option<Child>,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    arguments: Vec<String>,
    dir: tempfile::TempDir,
    certificates: Option<tempfile::TempDir>,
}

impl RedisServer {
    /// A server alone.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server alone, with further arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_from(&[], arguments)
    }

    /// A server alone that also takes encrypted connections, as `localhost`. Gives its encrypted URL and the file of its
    /// certificate too.
    pub fn start_with_tls() -> (Self, String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let port = free_port().to_string();
        let mut server = Self::start_with(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
        ]);
        server.certificates = Some(folder);
        (server, format!("rediss://:{ENCODED_PASSWORD}@localhost:{port}"), certificate)
    }

    /// A server alone, with the configuration in `file`.
    pub fn from_file(file: &str) -> Self {
        Self::start_from(&[file], &[])
    }

    fn start_from(file: &[&str], arguments: &[&str]) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display().to_string();
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--bind", "127.0.0.1", "--dir", &folder, "--save", "", "--appendonly", "no"];
        let secret = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
        let all: Vec<String> = [file, &own, &secret, arguments].concat().into_iter().map(str::to_owned).collect();
        let mut server = Self { process: None, port, arguments: all, dir, certificates: None };
        server.restart();
        server
    }

    /// Starts it again after a [`Self::kill`], on the same port, with nothing in its memory.
    pub fn restart(&mut self) {
        // The shell ends the server once our end of its input is closed: also if the test's process is killed.
        let script = "redis-server \"$@\" >/dev/null & read -r _; kill -KILL $!; wait";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args(&self.arguments).stdin(Stdio::piped()).process_group(0);
        self.process = Some(command.spawn().unwrap());
        wait_until("redis is there", || self.try_ask::<String>(&["PING"]).ok());
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            process.wait().unwrap();
        }
    }

    /// Makes it stand still: connections stay, nobody answers. Gives what lets it go on.
    pub fn halt(&self) -> impl FnOnce() + use<> {
        let info: String = self.ask(&["INFO", "server"]);
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim();
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        move || kill_process(pid, Signal::CONT).unwrap()
    }

    /// Where the server finds it.
    pub fn url(&self) -> String {
        format!("redis://:{ENCODED_PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// Sends a command behind the server's back.
    pub fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_ask(command).unwrap()
    }

    fn try_ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        // Sentinels have no password.
        let url = if self.arguments.iter().any(|it| it == "--sentinel") {
            format!("redis://127.0.0.1:{}", self.port)
        } else {
            self.url()
        };
        let mut connection = redis::Client::open(url)?.get_connection()?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    fn sentinel(master: u16) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sentinel.conf");
        let mut file = std::fs::File::create(&path).unwrap();
        write!(
            file,
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
             sentinel auth-pass {SERVICE} {PASSWORD}\nsentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000\n",
            dir.path().display()
        )
        .unwrap();
        let arguments = vec![path.display().to_string(), "--sentinel".to_owned()];
        let mut server = Self { process: None, port, arguments, dir, certificates: None };
        server.restart();
        server
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        // Whatever it was writing is gone with it.
        for folder in [Some(&self.dir), self.certificates.as_ref()].into_iter().flatten() {
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

/// A server, its replica, and three Sentinels.
pub struct Watched {
    pub master: RedisServer,
    pub replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    pub fn start() -> Self {
        let master = RedisServer::start();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
        wait_until("the replica follows", || {
            let info: String = replica.ask(&["INFO", "replication"]);
            info.contains("master_link_status:up").then_some(())
        });
        let sentinels: Vec<_> = (0..3).map(|_| RedisServer::sentinel(master.port)).collect();
        for sentinel in &sentinels {
            wait_until("the sentinels know each other and the replica", || {
                let told: redis::RedisResult<Vec<String>> = sentinel.try_ask(&["SENTINEL", "MASTER", SERVICE]);
                let told = told.ok()?;
                let value = |name: &str| told.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
                let known = (value("num-slaves")?, value("num-other-sentinels")?, value("flags")?);
                (known == ("1".into(), "2".into(), "master".into())).then_some(())
            });
        }
        Self { master, replica, sentinels }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://:{ENCODED_PASSWORD}@{}/{SERVICE}", hosts.join(","))
    }
}

/// Three servers that share the keys.
pub struct Cluster {
    pub nodes: Vec<RedisServer>,
}

impl Cluster {
    pub fn start() -> Self {
        let nodes: Vec<_> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
                RedisServer::start_with(&arguments)
            })
            .collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let output = Command::new("redis-cli")
            .args(["--no-auth-warning", "-a", PASSWORD, "--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        for node in &nodes {
            wait_until("the cluster is whole", || {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok").then_some(())
            });
        }
        Self { nodes }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://:{ENCODED_PASSWORD}@{}", hosts.join(","))
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
