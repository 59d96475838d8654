//! Kafka as the target: a real broker, and a committed reader that sees each record once, whatever is killed.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use crate::support::broker::{BROKER, Broker, Message};
use crate::support::{Random, Spool, wait_within};

/// A job whose output is a topic that nobody has used before.
struct Job<'a> {
    spool: Spool,
    broker: &'a Broker,
    topic: String,
}

/// A broker that was killed is back after half a minute, and is looked for every half minute by then.
#[track_caller]
fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_within(Duration::from_secs(120), what, condition);
}

fn topic() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("topic-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A job with further keys of `[output.kafka]`.
fn job<'a>(broker: &'a Broker, keys: &str, configuration: &str) -> Job<'a> {
    let topic = topic();
    let create = if keys.contains("create") { "" } else { "create = { partitions = 1 }\n" };
    let spool = Spool::new(&format!(
        "{configuration}[output]\nmax_owed = \"64MiB\"\n[output.kafka]\ntopic = \"{topic}\"\n\
         positions = \"positions-of-{topic}\"\n{create}{keys}[kafka]\nbrokers = [\"{}\"]\n",
        broker.address()
    ));
    Job { spool, broker, topic }
}

impl Job<'_> {
    #[track_caller]
    fn values(&self) -> Vec<String> {
        self.broker.values(&self.topic)
    }

    /// Runs `--once` to an end with this exit code; returns what it said.
    #[track_caller]
    fn ends_with(&self, code: i32) -> String {
        let output = self.spool.run("run", &["--once"]);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{log}");
        log
    }

    /// Runs `--once` with a fault; returns whether it was aborted.
    fn run_with(&mut self, fault: &str) -> bool {
        self.spool.environment("SPOOLMILL_FAULT", fault);
        let output = self.spool.run("run", &["--once"]);
        self.spool.no_environment();
        let aborted = output.status.signal() == Some(6);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(aborted || output.status.success(), "{fault}: {}: {log}", output.status);
        aborted
    }
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| format!("{number}.0")).collect()
}

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

const PLAIN: &str = "[input.format.numbers]\n[output.format.numbers]\n";

#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_record_is_one_message() {
    let csv = "[input.format.csv.columns]\nid = \"bigint\"\nname = \"varchar\"\nat = \"timestamp\"\n\
        [output.format.csv]\n";
    let keys = "key = \"name\"\ntimestamp = \"at\"\nheaders = [\"microbatch\", \"file\", \"line\"]\n\
        create = { partitions = 4 }\n";
    let job = job(&BROKER, keys, csv);
    job.spool.drop_file(
        "a.csv",
        "id,name,at\n1,foobar,2026-01-01\nx,y,z\n2,\"b \"\"c\",2026-01-02\n3,,2026-01-03\n",
    );
    job.spool.drop_file("b.csv", "id,name,at\n4,foobar,1950-01-01\n5,foobar,2026-01-04\n");
    job.spool.run_once();
    let messages = BROKER.read(&job.topic);
    let of = |id: &str| -> &Message {
        messages.iter().find(|message| message.value.starts_with(id)).unwrap()
    };
    assert_eq!(messages.len(), 4);
    assert_eq!(of("1,").value, "1,foobar,2026-01-01 00:00:00");
    assert_eq!(of("1,").headers, "microbatch=1,file=a.csv,line=2");
    assert_eq!(of("2,").headers, "microbatch=1,file=a.csv,line=4");
    assert_eq!((of("2,").key.as_str(), of("3,").key.as_str()), ("b \"c", ""));
    // Java's murmur2 of this key is -790332482, whose lowest bits without the sign are 2 of 4.
    assert_eq!((of("1,").partition, of("5,").partition), (2, 2));
    assert_eq!(of("5,").headers, "microbatch=2,file=b.csv,line=3");
    let rejects = job.spool.rejects();
    assert!(rejects.contains("\"line\":3,\"reason\":\"column `id`: not a bigint\""), "{rejects}");
    assert!(rejects.contains("not after 1970"), "{rejects}");
}

/// What the page about Kafka tells to type works, and prints what it says.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn the_commands_on_the_page_work() {
    let at_this_broker = |body: &str| body.replace("localhost:9092", &BROKER.address());
    let is_server = |kind: &str| kind == "sh server";
    assert!(crate::documents::run_blocks_of("docs/kafka.md", is_server, at_this_broker) > 0);
}

/// The records of a file stay in their order, in one partition.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn records_without_a_key_stay_together() {
    let job = job(&BROKER, "create = { partitions = 3 }\n", PLAIN);
    for name in ["a", "b", "c", "d"] {
        job.spool.drop_file(name, lines(0..50));
    }
    job.spool.run_once();
    let messages = BROKER.read(&job.topic);
    let values: Vec<_> = messages.into_iter().map(|message| message.value).collect();
    assert_eq!(values, [(); 4].map(|()| numbers(0..50)).concat());
}

/// The files of the crash tests: small ones, a bad one, and one that is staged in a file and sent in parts.
fn scenario(job: &Job<'_>) -> Vec<String> {
    job.spool.drop_file("a", "0\n1\nbad\n");
    job.spool.drop_file("b", lines(2..100_000));
    job.spool.drop_file("c", "100000\n");
    numbers(0..100_002)
}

fn second_round(job: &Job<'_>) {
    job.spool.drop_file("a", "100001\n");
}

#[track_caller]
fn check(job: &Job<'_>, expected: &[String], what: &str) {
    let values = job.values();
    assert!(values == expected, "{what}: {} of {} messages", values.len(), expected.len());
    assert_eq!(job.spool.rejects().lines().count(), 1, "{what}");
}

#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn an_abort_at_any_operation_delivers_each_record_once() {
    let mut random = Random(20);
    let mut count = 0;
    for number in 1..500 {
        let again = format!("abort:{}", 1 + random.below(12));
        for again in [None, Some(again)] {
            let mut job = job(&BROKER, "transaction = \"1MiB\"\n", PLAIN);
            let expected = scenario(&job);
            let aborted = job.run_with(&format!("abort:{number}"));
            if let Some(again) = &again {
                job.run_with(again);
            }
            job.spool.run_once();
            second_round(&job);
            job.spool.run_once();
            check(&job, &expected, &format!("abort:{number}, {again:?}"));
            if !aborted {
                eprintln!("aborted at each of {count} operations");
                assert!(count > 40, "only {count} operations were counted");
                return;
            }
        }
        count = number;
    }
    panic!("the operations have no end");
}

/// A large file goes in several transactions, a small one alone or with others in one.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_large_microbatch_goes_in_parts() {
    let job = job(&BROKER, "transaction = \"1MiB\"\n", PLAIN);
    job.spool.drop_file("a", lines(0..500_000));
    job.spool.run_once();
    assert_eq!(job.values(), numbers(0..500_000));
    let transactions = BROKER.values(&format!("positions-of-{}", job.topic));
    assert!(transactions.len() > 2, "{transactions:?}");
    assert!(transactions[0].contains("\"microbatch\":1,\"record\":"), "{transactions:?}");
    assert!(transactions.last().unwrap().contains("\"microbatch\":2,\"record\":0"));
    // One that fits into a transaction is not cut, whatever is before it.
    for name in ["b", "c", "d"] {
        job.spool.drop_file(name, lines(0..60_000));
    }
    job.spool.run_once();
    let parts = |text: &String| !text.contains("\"record\":0");
    let all = BROKER.values(&format!("positions-of-{}", job.topic));
    assert_eq!(all[transactions.len()..].iter().filter(|text| parts(text)).count(), 0, "{all:?}");
    assert_eq!(job.values().len(), 680_000);
}

/// The broker is away when the daemon starts, and later: inputs wait, nothing fails.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_broker_that_is_away_is_waited_for() {
    let mut broker = Broker::start();
    broker.kill();
    let topic;
    let daemon;
    let spool;
    {
        let job = job(&broker, "timeout = \"10s\"\n", PLAIN);
        job.spool.drop_file("a", lines(0..10));
        let log = job.ends_with(1);
        assert!(log.contains("Connection refused"), "{log}");
        daemon = job.spool.start();
        (topic, spool) = (job.topic, job.spool);
    }
    wait_for("it waits", || daemon.log().contains("paused; nothing is lost"));
    assert_eq!(spool.ledger("SELECT count(*) FROM microbatch"), 0);
    broker.run();
    broker.wait_until_ready();
    wait_for("it is archived", || spool.names().contains("processed-a"));
    wait_for("it is delivered", || broker.values(&topic).len() == 10);
    broker.kill();
    spool.drop_file("b", lines(10..20));
    wait_for("commits run ahead", || spool.names().contains("processed-b"));
    broker.run();
    broker.wait_until_ready();
    wait_for("it is delivered", || broker.values(&topic) == numbers(0..20));
    daemon.stop();
}

/// A process that was stopped for longer than its transaction may last finds that it is fenced, and goes on.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_transaction_that_has_timed_out_is_sent_again() {
    let mut job = job(&BROKER, "timeout = \"1s\"\n", PLAIN);
    job.spool.always("SPOOLMILL_MUTANT", "slow-commit");
    job.spool.drop_file("a", lines(0..10));
    let log = job.spool.run_once();
    assert!(log.contains("the target is away, trying again"), "{log}");
    assert_eq!(job.values(), numbers(0..10));
}

/// A copy of the ledger on another machine, under another name, delivers; the original, which runs all the time, finds
/// that out with the next file, and stops.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn an_original_stops_when_its_copy_has_delivered() {
    let job = job(&BROKER, "", PLAIN);
    job.spool.drop_file("a", "0\n");
    let daemon = job.spool.start();
    wait_for("it is archived", || job.spool.names().contains("processed-a"));
    wait_for("it is delivered", || job.spool.ledger("SELECT count(*) FROM owed") == 0);
    assert_eq!(job.values(), ["0.0"]);
    let copy = Spool::new("");
    copy_state(&job.spool, &copy);
    copy.drop_file("c", "7\n");
    copy.run_once();
    assert_eq!(job.values(), ["0.0", "7.0"]);
    job.spool.drop_file("b", "1\n");
    let (status, log) = daemon.wait();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(log.contains("kafka does not go with the ledger"), "{log}");
    assert_eq!(job.values(), ["0.0", "7.0"]);
}

fn copy_state(from: &Spool, to: &Spool) {
    fs::create_dir_all(to.path("state")).unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        if let Ok(bytes) = fs::read(from.path("state").join(name)) {
            fs::write(to.path("state").join(name), bytes).unwrap();
        }
    }
    // The copy believes that it is the original, which moved.
    let text = fs::read_to_string(from.path("job.toml")).unwrap();
    fs::write(to.path("job.toml"), text).unwrap();
}

/// Over TLS, with a password that stands in a file; a wrong one, or an authority that nobody knows, is refused.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_password_and_a_certificate_are_used() {
    for mechanism in ["plain", "scram-sha-512"] {
        let job = job(&BROKER, "", PLAIN);
        let file = job.spool.path("job.toml");
        let plain = fs::read_to_string(&file).unwrap();
        let secure = plain.replace(&BROKER.address(), &BROKER.secure_address());
        let with = |ca: &str| {
            let tables = format!(
                "[kafka.tls]\n{ca}[kafka.sasl]\nmechanism = \"{mechanism}\"\nuser = \"ada\"\n\
                 password = {{ file = \"password\" }}\n"
            );
            fs::write(&file, secure.clone() + &tables).unwrap();
        };
        fs::copy(BROKER.certificate(), job.spool.path("ca.pem")).unwrap();
        fs::write(job.spool.path("password"), "open sesame\n").unwrap();
        job.spool.drop_file("a", "0\n");
        with("");
        let check = |code| {
            let output = job.spool.run("check", &[]);
            let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(!said.contains("sesame"), "{said}");
            said
        };
        assert!(check(2).contains("certificate"));
        with("ca = \"ca.pem\"\n");
        check(0);
        let log = job.spool.run_once();
        assert!(!log.contains("sesame"), "{log}");
        assert_eq!(job.values(), ["0.0"]);
        fs::write(job.spool.path("password"), "open barley\n").unwrap();
        assert!(check(2).to_lowercase().contains("authentication"));
    }
}

/// A record that the topic would refuse for ever is a reject, before it is committed.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn what_a_topic_never_takes_is_a_reject() {
    let csv =
        "[input.format.csv.columns]\nid = \"bigint\"\nat = \"timestamp\"\n[output.format.csv]\n";
    let job = job(&BROKER, "key = \"id\"\ntimestamp = \"at\"\n", csv);
    job.spool.drop_file("a.csv", "id,at\n1,2026-01-01\n2,2999-01-01\n,2026-01-01\n");
    job.spool.run_once();
    assert_eq!(job.values(), ["1,2026-01-01 00:00:00", ",2026-01-01 00:00:00"]);
    assert!(job.spool.rejects().contains("ahead of the clock"), "{}", job.spool.rejects());
    let what = ["--alter", "--entity-type", "topics", "--entity-name", &job.topic];
    let arguments = [&what[..], &["--add-config", "cleanup.policy=compact"]].concat();
    BROKER.tool("org.apache.kafka.tools.ConfigCommand", &arguments);
    job.spool.drop_file("b.csv", "id,at\n,2026-01-01\n3,2026-01-01\n");
    job.spool.run_once();
    assert_eq!(job.values().len(), 3);
    assert!(job.spool.rejects().contains("without a key, and the topic is compacted"));
}

/// A topic that is not there is said, and not made.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_topic_that_is_missing_is_not_made() {
    let job = job(&BROKER, "timeout = \"1s\"\n", PLAIN);
    let file = job.spool.path("job.toml");
    let text = fs::read_to_string(&file).unwrap().replace("create = { partitions = 1 }\n", "");
    fs::write(&file, &text).unwrap();
    job.spool.drop_file("a", "0\n");
    let said = job.spool.run("check", &[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(job.ends_with(1).contains("does not exist"));
    job.spool.assert_names(&["a"]);
    fs::write(
        &file,
        text.replace("timeout", "create = { partitions = 2 }\npartition = 2\ntimeout"),
    )
    .unwrap();
    assert!(job.ends_with(1).contains("which count from 0"));
    fs::write(&file, text.replace("timeout", "partition = 1\ntimeout")).unwrap();
    job.spool.run_once();
    assert_eq!(BROKER.read(&job.topic)[0].partition, 1);
}

/// What no topic could do is refused before a broker is asked, under the key that says it.
#[test]
fn what_a_topic_cannot_do_is_refused() {
    let refused = |keys: &str, more: &str| {
        let text = format!(
            "{more}\n[rejects]\npath = \"r\"\n[output.kafka]\ntopic = \"a\"\n{keys}\n[kafka]\nbrokers = [\"b:1\"]\n"
        );
        let file = std::path::Path::new("job.toml");
        spoolmill::config::Config::parse(&text, file, "/".into()).unwrap_err().to_string()
    };
    for (keys, more, key) in [
        ("positions = \"a b\"", "", "output.kafka.positions: found"),
        ("positions = \"a\"", "", "output.kafka.positions: is the same topic"),
        ("partition = \"key\"", "", "output.kafka.partition"),
        ("partition = -1", "", "output.kafka.partition"),
        ("create = { partitions = 0 }", "", "output.kafka.create"),
        ("timeout = \"20m\"", "", "output.kafka.timeout"),
        ("transaction = \"1KiB\"", "", "output.kafka.transaction"),
        ("headers = [\"file\", \"file\"]", "", "output.kafka.headers"),
        ("", "[output]\npath = \"o\"", "output.kafka: found beside"),
        ("", "[output]\nmax_owed = \"0B\"", "output.max_owed"),
        ("", "[output]\nrotate = { size = \"1MiB\" }", "output.rotate"),
        ("key = \"a\"", "[transform.command]\nargv = [\"cat\"]", "output.kafka: a command"),
        ("headers = [\"line\"]", "[transform.command]\nargv = [\"cat\"]", "output.kafka.headers"),
    ] {
        let said = refused(keys, more);
        assert!(said.contains(key), "{keys} {more}: {said}");
    }
}

/// Neither a job that is printed nor an error shows what may be a password.
#[test]
fn no_password_is_printed() {
    let printed = |tables: &str| {
        let spool = Spool::new(&format!(
            "[output]\nmax_owed = \"1MiB\"\n[output.kafka]\ntopic = \"a\"\n[kafka]\n\
             brokers = [\"127.0.0.1:1\"]\n{tables}"
        ));
        let output = spool.run("check", &[]);
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let sasl = "[kafka.sasl]\nmechanism = \"plain\"\nuser = \"ada\"\npassword = ";
    assert!(printed(&format!("{sasl}\"hunter2\"\n")).contains("(hidden)"));
    assert!(printed(&format!("{sasl}{{ value = \"hunter2\" }}\n")).contains("credential"));
    let options = "[kafka.options]\n";
    assert!(
        printed(&format!("{options}\"ssl.key.password\" = \"hunter2\"\n")).contains("(hidden)")
    );
    assert!(
        printed(&format!("{options}\"ssl.key.pasword\" = \"hunter2\"\n"))
            .contains("ssl.key.pasword")
    );
    assert!(printed(&format!("{options}\"group.id\" = \"hunter2\"\n")).contains("group.id"));
}

/// What was delivered is gone with the topic: only a person can say what is to be done.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_topic_that_was_made_again_stops_the_job() {
    for deleted in ["", "positions-of-"] {
        let job = job(&BROKER, "", PLAIN);
        job.spool.drop_file("a", "0\n");
        job.spool.run_once();
        let name = format!("{deleted}{}", job.topic);
        BROKER.tool("org.apache.kafka.tools.TopicCommand", &["--delete", "--topic", &name]);
        if deleted.is_empty() {
            let make = ["--create", "--topic", &name, "--partitions", "1"];
            wait_for("the topic can be made again", || {
                std::panic::catch_unwind(|| {
                    BROKER.tool("org.apache.kafka.tools.TopicCommand", &make)
                })
                .is_ok()
            });
        }
        job.spool.drop_file("b", "1\n");
        let log = job.ends_with(4);
        assert!(log.contains(&name), "{log}");
        job.spool.assert_names(&["b", "processed-a"]);
    }
}

/// A message that the topic does not take is a reject, and its neighbours go.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_message_that_is_too_large_is_a_reject() {
    let job = job(&BROKER, "compression = \"none\"\n", "[input.format.lines]\n");
    job.spool.drop_file("a", "first\n");
    job.spool.run_once();
    let alter = |bytes: &str| {
        let setting = format!("max.message.bytes={bytes}");
        let what = ["--alter", "--entity-type", "topics", "--entity-name", &job.topic];
        let arguments = [&what[..], &["--add-config", &setting]].concat();
        BROKER.tool("org.apache.kafka.tools.ConfigCommand", &arguments);
    };
    alter("1000");
    job.spool.drop_file("b", format!("{}\nsecond\n{}\n", "x".repeat(950), "y".repeat(850)));
    job.spool.run_once();
    assert_eq!(job.values(), ["first".to_owned(), "second".to_owned(), "y".repeat(850)]);
    let rejects = job.spool.rejects();
    assert!(rejects.contains("a message of 1050 bytes, and the topic takes 1000"), "{rejects}");
    assert!(rejects.contains("\"line\":1"), "{rejects}");
    // What is committed when the topic begins to refuse it waits until somebody mends that.
    alter("10000");
    let daemon = job.spool.start();
    wait_for("it is open", || daemon.log().contains("watching"));
    alter("1000");
    job.spool.drop_file("c", format!("{}\n", "z".repeat(5_000)));
    let told = "is a message of 5000 bytes, and the topic";
    wait_for("it says so", || daemon.log().contains(told));
    job.spool.assert_names(&["processed-a", "processed-b", "processed-c"]);
    alter("10000");
    wait_for("it is delivered", || job.values().len() == 4);
    daemon.stop();
}

/// Kills of the daemon under load, and of the broker.
#[test]
#[ignore = "needs a broker: SPOOLMILL_TEST_KAFKA"]
fn a_reader_sees_every_record_once_through_any_number_of_kills() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |number| number.parse().expect(name))
    };
    let kills = number("SPOOLMILL_TEST_KILLS", 30);
    let mut random = Random(number("SPOOLMILL_TEST_SEED", 20));
    let mut broker = Broker::start();
    let made = job(&broker, "timeout = \"20s\"\ntransaction = \"1MiB\"\n", PLAIN);
    let (spool, topic) = (made.spool, made.topic);
    let mut written = 0;
    let mut daemon = spool.start();
    for kill in 0..kills {
        for _ in 0..1 + random.below(20) {
            let lines_in_it = if random.below(20) == 0 { 60_000 } else { 1 + random.below(50) };
            spool.drop_file(format!("f{written:09}"), lines(written..written + lines_in_it));
            written += lines_in_it;
            std::thread::sleep(Duration::from_millis(random.below(10)));
        }
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        if kill % 5 == 4 {
            broker.kill();
            std::thread::sleep(Duration::from_millis(random.below(1_000)));
            broker.run();
            broker.wait_until_ready();
        } else {
            drop(daemon);
            daemon = spool.start();
        }
    }
    let until = std::time::Instant::now() + Duration::from_secs(240);
    while spool.names().iter().any(|name| name.starts_with('f')) {
        assert!(std::time::Instant::now() < until, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.stop();
    spool.run_once();
    let values = broker.values(&topic);
    assert!(values == numbers(0..written), "{} of {written} messages", values.len());
    eprintln!("{kills} kills, {written} messages");
}
