//! spoolmill to Kafka, beside librdkafka alone: the same bytes, in transactions of the same size.
//!
//! `cargo run --release --manifest-path benches/kafka/Cargo.toml -- BROKER SPOOLMILL`. The broker is there, the program
//! is a release build with the feature `kafka`. Each time of spoolmill is that of a whole `run --once`, its start, its
//! ledger and its staging included.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

/// Bytes of a transaction, as in a job that says nothing of it.
const TRANSACTION: usize = 64 << 20;

const ROUNDS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(broker), Some(program)) = (arguments.next(), arguments.next()) else {
        panic!("expected a broker and the program");
    };
    let program = std::fs::canonicalize(program).expect("the program");
    let folder = std::env::temp_dir().join(format!("spoolmill-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (size, count) in [(100, 5_000_000), (1_000, 800_000)] {
        let file = folder.join("messages");
        write_messages(&file, size, count);
        let mut peers = Vec::new();
        let mut ours = Vec::new();
        for round in 0..ROUNDS {
            let topic = format!("bench-{}-{size}-{round}", stamp());
            create(&broker, &topic);
            peers.push(produce(&broker, &topic, &file));
            ours.push(spoolmill(&program, &broker, &folder, &format!("{topic}-ours"), &file));
        }
        let (peer, own) = (median(&mut peers), median(&mut ours));
        let megabytes = (size * count) as f64 / 1e6;
        println!(
            "{count} messages of {size} bytes: librdkafka {:.1} MB/s, spoolmill {:.1} MB/s: {:.2} of it",
            megabytes / peer,
            megabytes / own,
            peer / own
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

fn stamp() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Text of letters by chance, each line with its number.
fn write_messages(path: &Path, size: usize, count: usize) {
    let mut state = 1_u64;
    let mut letter = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 33) as u8 % 26
    };
    let pool: Vec<u8> = (0..1 << 20).map(|_| letter()).collect();
    let mut text = Vec::with_capacity((size + 1) * count);
    for number in 0..count {
        let at = number * 7919 % (pool.len() - size);
        text.extend_from_slice(&pool[at..at + size - 8]);
        text.extend_from_slice(format!("{number:08}\n").as_bytes());
    }
    std::fs::write(path, text).unwrap();
}

fn create(broker: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().unwrap();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let asked = admin.create_topics([&new], &AdminOptions::new());
    // The thread of the client completes it.
    let mut asked = std::pin::pin!(asked);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while asked.as_mut().poll(&mut context).is_pending() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
}

/// The peer: a few lines of librdkafka, which read a file and send its lines.
fn produce(broker: &str, topic: &str, file: &Path) -> f64 {
    let start = Instant::now();
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("transactional.id", format!("peer-{topic}"))
        .set("compression.codec", "zstd")
        .set("queue.buffering.max.kbytes", "65536")
        .set("queue.buffering.max.messages", "200000")
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    let text = std::fs::read(file).unwrap();
    let mut bytes = 0;
    producer.begin_transaction().unwrap();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if bytes + line.len() > TRANSACTION {
            producer.commit_transaction(Duration::from_secs(60)).unwrap();
            producer.begin_transaction().unwrap();
            bytes = 0;
        }
        bytes += line.len();
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(line).partition(0);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
    producer.commit_transaction(Duration::from_secs(60)).unwrap();
    start.elapsed().as_secs_f64()
}

fn spoolmill(program: &Path, broker: &str, folder: &Path, topic: &str, file: &Path) -> f64 {
    let folder: PathBuf = folder.join(topic);
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let job = format!(
        "[input]\ndirectory = \"in\"\nsettle = \"0s\"\n[output.kafka]\ntopic = \"{topic}\"\n\
         create = {{ partitions = 1 }}\n[rejects]\npath = \"rejects.jsonl\"\n[kafka]\nbrokers = [\"{broker}\"]\n"
    );
    std::fs::write(folder.join("job.toml"), job).unwrap();
    // Topics are made before the clock starts.
    run(program, &folder);
    std::fs::copy(file, folder.join("in/messages")).unwrap();
    let start = Instant::now();
    run(program, &folder);
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&folder).unwrap();
    seconds
}

fn run(program: &Path, folder: &Path) {
    let mut command = Command::new(program);
    command.args(["run", "--once", "-c", "job.toml"]).current_dir(folder);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
