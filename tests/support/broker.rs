//! A real Kafka broker, and a reader of what is committed.
//!
//! `SPOOLMILL_TEST_KAFKA` is the folder that `mvn dependency:copy-dependencies` has filled from
//! `tests/support/kafka/pom.xml`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

/// A broker needs longer than a test, most of all after it was killed: its old session ends first.
const STARTS_WITHIN: Duration = Duration::from_secs(90);

/// The broker that tests share which leave it alone.
pub static BROKER: LazyLock<Broker> = LazyLock::new(Broker::start);

/// A broker on ports and a folder of its own.
pub struct Broker {
    jars: String,
    folder: PathBuf,
    ports: [u16; 3],
    child: Option<Child>,
}

/// A message that a committed reader has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub partition: u32,
    pub key: String,
    pub headers: String,
    pub value: String,
}

impl Broker {
    pub fn start() -> Self {
        let jars = std::env::var("SPOOLMILL_TEST_KAFKA").expect(
            "SPOOLMILL_TEST_KAFKA is not set: fill a folder from tests/support/kafka/pom.xml, as .ci/run does",
        );
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_leftovers();
        }
        let name = format!("kafka-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        make_certificate(&folder);
        let mut broker = Self { jars, folder, ports: free_ports(), child: None };
        broker.format();
        broker.run();
        broker.wait_until_ready();
        broker
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// The way in with TLS and a password.
    pub fn secure_address(&self) -> String {
        format!("localhost:{}", self.ports[2])
    }

    /// The certificate that says who the broker is.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    fn java(&self, memory: &str) -> Command {
        // It ends with the tests, however they end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "java"]).arg(memory);
        command.arg("-cp").arg(format!("{}/*", self.jars));
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn format(&self) {
        let [port, controller, secure] = self.ports;
        let properties = include_str!("kafka/server.properties");
        let own = format!(
            "log.dirs={}\nlisteners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
             SASL_SSL://127.0.0.1:{secure}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://localhost:{secure}\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n",
            self.folder.join("logs").display()
        );
        fs::write(self.folder.join("server.properties"), format!("{properties}{own}")).unwrap();
        let mut command = self.java("-Xmx256m");
        command.args(["kafka.tools.StorageTool", "format", "--standalone"]);
        command.args(["-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c", "server.properties"]);
        command.args(["--add-scram", "SCRAM-SHA-512=[name=ada,password=open sesame]"]);
        let output = command.output().expect("setpriv and java can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    /// Starts it, again if it was killed. The signal at the death of its parent means a thread, so that one stays.
    pub fn run(&mut self) {
        let mut command = self.java("-Xmx384m");
        command.args(["kafka.Kafka", "server.properties"]);
        let log = fs::File::options().append(true).create(true).open(self.folder.join("out"));
        command.stdout(log.unwrap()).stderr(Stdio::null());
        let (give, take) = mpsc::channel();
        std::thread::spawn(move || {
            give.send(command.spawn().unwrap()).unwrap();
            loop {
                std::thread::park();
            }
        });
        self.child = Some(take.recv().unwrap());
    }

    pub fn wait_until_ready(&self) {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            let mut kcat = Command::new("kcat");
            kcat.args(["-b", &self.address(), "-L", "-m", "2"]);
            let output = kcat.output().expect("kcat can be started");
            let said = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && said.contains("1 brokers") {
                return;
            }
            assert!(Instant::now() < deadline, "the broker did not come up");
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Runs a tool of Kafka's.
    #[track_caller]
    pub fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut command = self.java("-Xmx128m");
        command.arg(class).args(["--bootstrap-server", &self.address()]).args(arguments);
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(output.status.success(), "{said}");
        said
    }

    /// All that a `read_committed` reader sees in a topic, partition by partition.
    #[track_caller]
    pub fn read(&self, topic: &str) -> Vec<Message> {
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", &self.address(), "-C", "-t", topic, "-o", "beginning", "-e", "-q"]);
        kcat.args(["-X", "isolation.level=read_committed", "-f", "%p\\t%k\\t%h\\t%s\\n"]);
        let output = kcat.output().expect("kcat can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let text = String::from_utf8_lossy(&output.stdout);
        let message = |line: &str| {
            let mut fields = line.splitn(4, '\t').map(str::to_owned);
            let mut next = || fields.next().unwrap();
            let partition = next().parse().unwrap();
            Message { partition, key: next(), headers: next(), value: next() }
        };
        let mut messages: Vec<_> = text.lines().map(message).collect();
        messages.sort_by_key(|message| message.partition);
        messages
    }

    /// The values of a topic, partition by partition.
    #[track_caller]
    pub fn values(&self, topic: &str) -> Vec<String> {
        self.read(topic).into_iter().map(|message| message.value).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The shared broker ends with its tests, and nobody drops it.
fn remove_leftovers() {
    for entry in fs::read_dir(env!("CARGO_TARGET_TMPDIR")).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let process = name.strip_prefix("kafka-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A certificate that is its own authority, and the key beside it.
fn make_certificate(folder: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    command.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder);
    let output = command.output().expect("openssl can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let both = ["key.pem", "cert.pem"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    fs::write(folder.join("server.pem"), both.concat()).unwrap();
}

/// Ports that nobody listens on.
fn free_ports() -> [u16; 3] {
    let bound = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port())
}
