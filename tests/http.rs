//! Metrics, health and the page: what they say, to whom, and that nothing from outside becomes markup.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use crate::support::spool::{Daemon, NUMBERS};
use crate::support::{Spool, wait_for};

/// A job that is served on a port of its own.
fn served() -> Spool {
    Spool::new(&format!("{NUMBERS}[http]\nlisten = \"0\"\n"))
}

/// Starts it; the address that it says.
fn start(spool: &Spool) -> (Daemon, String) {
    let daemon = spool.start();
    wait_for("it watches", || daemon.log().contains("watching"));
    let log = daemon.log();
    let address = log.split("HTTP address=\"").nth(1).expect("it says where");
    let address = address.split('"').next().unwrap().to_owned();
    (daemon, address)
}

/// Head and body of an answer.
fn ask(address: &str, head: &str) -> (String, String) {
    let mut stream = connect(address);
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    answer(stream)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
    stream
}

/// Head and body of what comes, as long as the head says or until the other side closes.
fn answer(stream: impl std::io::Read) -> (String, String) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut body) = (String::new(), Vec::new());
    while stream.read_line(&mut head).unwrap() > 2 {}
    let lower = head.to_lowercase();
    let length = lower.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
    let length = length.map_or(u64::MAX, |length| length.trim().parse().unwrap());
    stream.take(length).read_to_end(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn get(address: &str, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"))
}

#[test]
fn metrics_say_what_the_ledger_says() {
    let spool = served();
    let (daemon, address) = start(&spool);
    spool.drop_file("a", "1\nbad\n3\n");
    spool.drop_file("b.gz", "this is no gzip file");
    spool.drop_file("c", "1\nbad\n3\n");
    wait_for("all are there", || get(&address, "/metrics").1.contains("microbatches_total 3"));
    spool.drop_file("d.tmp", "1\n");
    let (head, text) = get(&address, "/metrics");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    for line in [
        "spoolmill_files_total{outcome=\"processed\"} 2",
        "spoolmill_files_total{outcome=\"failed\"} 1",
        "spoolmill_duplicate_files_total 1",
        "spoolmill_records_total{kind=\"read\"} 6",
        "spoolmill_records_total{kind=\"rejected\"} 2",
        "spoolmill_input_bytes_total 16",
        "spoolmill_pending_files 0",
        "spoolmill_failed_files 1",
        "spoolmill_paused 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    is_open_metrics(&text);
    daemon.stop();
}

/// Groups that a view cannot compute are told to who watches the job.
#[cfg(feature = "sql")]
#[test]
fn metrics_and_status_tell_what_a_view_leaves_out() {
    let input = "[input.format.csv]\nheader = false\n[input.format.csv.columns]\nk = \"varchar\"\n\
        n = \"bigint\"\n[output]\npath = \"output.txt\"\n[output.format.csv]\n";
    let view = "[[view]]\nname = \"v\"\nmode = \"update\"\npath = \"v.csv\"\n\
        query = \"select k, 100 / sum(n) as s from output group by k\"\n";
    let spool = Spool::new(&format!("{input}{view}[http]\nlisten = \"0\"\n"));
    let (daemon, address) = start(&spool);
    spool.drop_file("a", "x,0\ny,0\nz,1\n");
    wait_for("it is told", || get(&address, "/metrics").1.contains("left_out_groups 2"));
    let text = get(&address, "/metrics").1;
    assert!(text.lines().any(|line| line == "spoolmill_stopped_views 0"), "{text}");
    is_open_metrics(&text);
    let status: serde_json::Value = serde_json::from_str(&get(&address, "/status.json").1).unwrap();
    let text = status.to_string();
    assert!(text.contains("\"view_troubles\":[{") && text.contains("\"left_out\":2"), "{text}");
    daemon.stop();
}

/// The grammar of the specification, as far as it is used: each sample belongs to the family before it,
/// a family comes once, counters end in `_total`, units in the name, and `# EOF` is the end.
fn is_open_metrics(text: &str) {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let (mut family, mut kind, mut seen) = (String::new(), String::new(), Vec::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["#", "TYPE", name, is] => {
                (family, kind) = ((*name).to_owned(), (*is).to_owned());
                assert!(!seen.contains(&family) && family.starts_with("spoolmill_"), "{line}");
                seen.push(family.clone());
            }
            ["#", "UNIT", name, unit] => {
                assert!(*name == family && family.ends_with(&format!("_{unit}")), "{line}");
            }
            ["#", "HELP", name, ..] => assert!(*name == family && line.ends_with('.'), "{line}"),
            [sample, value] => {
                let name = sample.split('{').next().unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                assert_eq!(name, format!("{family}{suffix}"), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
            _ => panic!("{line}"),
        }
    }
    assert!(seen.len() > 10);
}

#[test]
fn health_and_readiness_are_told_apart() {
    let mut spool = served();
    spool.environment("SPOOLMILL_FAULT", "fail:commit:28:1+");
    let (daemon, address) = start(&spool);
    wait_for("it is ready", || get(&address, "/readyz").0.starts_with("HTTP/1.1 200"));
    spool.drop_file("a", "1\n");
    wait_for("it pauses", || get(&address, "/readyz").0.starts_with("HTTP/1.1 503"));
    assert!(get(&address, "/readyz").1.contains("No space left"));
    assert_eq!(get(&address, "/healthz").1, "ok\n");
    drop(daemon);
}

#[test]
fn nothing_can_be_changed_and_only_this_machine_is_answered() {
    let spool = served();
    let (daemon, address) = start(&spool);
    for (head, code) in [
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0", "405"),
        ("DELETE /status.json HTTP/1.1\r\nHost: localhost", "405"),
        ("GET / HTTP/1.1\r\nHost: evil.example", "403"),
        ("GET / HTTP/1.1\r\nHost: localhost.evil.example:80", "403"),
        ("GET / HTTP/1.1\r\nHost: LOCALHOST:9", "200"),
        ("GET / HTTP/1.1\r\nHost: [::1]:9", "200"),
        ("HEAD / HTTP/1.1\r\nHost: 127.0.0.1", "200"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost", "404"),
        ("GET /x HTTP/1.1\r\nHost: localhost", "404"),
        ("nonsense", "400"),
    ] {
        let (answer, _) = ask(&address, head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{head}: {answer}");
    }
    let (head, body) = get(&address, "/");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(!body.contains("http://") && !body.contains("https://"), "it has outside resources");
    daemon.stop();
}

#[test]
fn events_tell_what_changes() {
    let spool = served();
    let (daemon, address) = start(&spool);
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut next =
        || lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    let first: serde_json::Value = serde_json::from_str(&next()).unwrap();
    assert_eq!(first["status"]["total"]["files"].as_u64(), Some(0), "{first}");
    spool.drop_file("a", "1\n");
    let later: serde_json::Value = (0..20)
        .map(|_| serde_json::from_str::<serde_json::Value>(&next()).unwrap())
        .find(|event| event["status"]["total"]["files"] == 1)
        .expect("it is told");
    assert_eq!(later["newest"][0]["file"].as_str(), Some("a"), "{later}");
    daemon.stop();
}

#[test]
fn a_unix_socket_serves_and_what_is_no_socket_stays() {
    let spool = Spool::new(&format!("{NUMBERS}[http]\nlisten = \"unix:http.sock\"\n"));
    // What a crash has left.
    drop(UnixListener::bind(spool.path("http.sock")).unwrap());
    let daemon = spool.start();
    wait_for("it watches", || daemon.log().contains("watching"));
    let mut stream = UnixStream::connect(spool.path("http.sock")).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(answer(stream).1, "ok\n");
    let second = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another program listens there"), "{said}");
    daemon.stop();
    std::fs::remove_file(spool.path("http.sock")).unwrap();
    std::fs::write(spool.path("http.sock"), "mine").unwrap();
    let refused = spool.run("run", &["--once"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("no socket"), "{said}");
    assert_eq!(spool.read("http.sock"), "mine");
}

#[test]
fn a_place_to_listen_is_checked_with_the_job() {
    for wrong in ["99999", "localhost", "unix:", "1.2.3.4"] {
        let spool = Spool::new(&format!("{NUMBERS}[http]\nlisten = \"{wrong}\"\n"));
        let refused = spool.run("check", &[]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("job.toml:"), "{wrong}: {said}");
        assert!(said.contains("listen") && said.contains("expected a port"), "{wrong}: {said}");
    }
}

/// A browser without a window, driven by the WebDriver protocol; closed when dropped.
struct Browser {
    driver: std::process::Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// One with a page of this width, if a browser and its driver are installed.
    fn open(width: u32) -> Option<Self> {
        let program = ["chromium", "google-chrome"].into_iter().find_map(|name| {
            let output = Command::new("which").arg(name).output().ok()?;
            let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (!path.is_empty()).then_some(path)
        })?;
        let mut driver =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().ok()?;
        let said = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = said.into_iter().find_map(|line| {
            Some(line.split("successfully on port ").nth(1)?.trim_end_matches('.').to_owned())
        });
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--window-size={width},900"),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let address = format!("127.0.0.1:{}", port.expect("the driver says its port"));
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let options = serde_json::json!({"binary": program, "args": arguments});
        let wanted = serde_json::json!({"goog:chromeOptions": options});
        let made = browser.post("", &serde_json::json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = format!("/{}", made["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let body = body.to_string();
        let head = format!(
            "POST /session{}{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
             Content-Type: application/json",
            self.session,
            self.address,
            body.len()
        );
        let mut stream = connect(&self.address);
        write!(stream, "{head}\r\nConnection: close\r\n\r\n{body}").unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer(stream).1).unwrap();
        answer["value"].clone()
    }

    fn go(&self, url: &str) {
        self.post("/url", &serde_json::json!({ "url": url }));
    }

    /// What this expression is on the page.
    fn ask(&self, expression: &str) -> serde_json::Value {
        let script = serde_json::json!({"script": format!("return {expression}"), "args": []});
        self.post("/execute/sync", &script)
    }

    fn text(&self, expression: &str) -> String {
        self.ask(expression).as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let head = format!("DELETE /session{} HTTP/1.1\r\nHost: {}", self.session, self.address);
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let _ = write!(stream, "{head}\r\nConnection: close\r\n\r\n");
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(10)));
            let _ = stream.read(&mut [0; 1]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What an operator looks for is there, on a telephone, live, whatever the files are called.
#[test]
fn the_page_shows_the_job_and_no_name_is_markup() {
    let Some(browser) = Browser::open(400) else {
        eprintln!("no browser is installed: the page was not looked at");
        return;
    };
    let spool = served();
    let (daemon, address) = start(&spool);
    let hostile = "<img src=x onerror=\"document.title='owned'\">";
    spool.drop_file(format!("{hostile}.gz"), "this is no gzip file");
    spool.drop_file("<script>document.title='owned'<\u{2215}script>", "1\nbad\n3\n");
    for number in 0..3 {
        spool.drop_file(format!("file{number}"), "1\n2\n");
    }
    wait_for("all are there", || get(&address, "/metrics").1.contains("microbatches_total 5"));
    browser.go(&format!("http://{address}/"));
    let figure = |name: &str| {
        let named =
            format!("[...document.querySelectorAll('dt')].find(dt => dt.textContent == '{name}')");
        browser.text(&format!("{named}?.nextSibling.firstChild.textContent"))
    };
    wait_for("the figures are there", || figure("Processed files") == "4");
    assert_eq!(browser.text("document.getElementById('state').textContent"), "running");
    assert_eq!(figure("Failed files"), "1");
    assert_eq!(figure("Records"), "9");
    assert_eq!(figure("Rejected records"), "1");
    assert_eq!(figure("Pending files"), "0");
    let set_aside = browser.text("document.querySelector('#quarantined tbody tr').innerText");
    assert!(set_aside.contains(hostile), "{set_aside}");
    assert!(set_aside.contains("cannot be read: is no gzip file"), "{set_aside}");
    assert_eq!(browser.text("document.title"), "job - spoolmill");
    assert_eq!(browser.ask("document.images.length + document.scripts.length"), 1);
    // The bars are the records of the ledger.
    let bars = "[...document.querySelectorAll('#throughput rect')].reduce((sum, bar) => sum + \
        Number(bar.dataset.value), 0)";
    let read = "SELECT sum(read) FROM microbatch";
    assert_eq!(browser.ask(bars), spool.ledger(read));
    assert_eq!(browser.ask("document.querySelectorAll('#lag rect').length > 0"), true);
    // It is live, and its buttons work.
    spool.drop_file("later", "7\n");
    wait_for("the page says so by itself", || figure("Records") == "10");
    browser.ask("document.querySelector('[data-minutes=\"1440\"]').click()");
    let pressed = "document.querySelector('[aria-pressed=\"true\"]').textContent";
    assert_eq!(browser.text(pressed), "1 day");
    assert_eq!(browser.ask(bars), spool.ledger(read));
    // Nothing is wider than the telephone, and nobody has to see it to know what it says.
    assert_eq!(browser.ask("document.documentElement.scrollWidth <= innerWidth"), true);
    let label = browser.text("document.getElementById('throughput').getAttribute('aria-label')");
    assert!(label.contains("records"), "{label}");
    daemon.stop();
    wait_for("its end is seen", || {
        browser.text("document.getElementById('state').textContent").contains("no answer")
    });
}
