//! The job over HTTP: metrics, health, and one page to look at.
//!
//! Invariants: nothing can be changed by it, and nothing is asked of the daemon: it reads what
//! `status` reads, and gives out what it read for a second, or longer where that was much work. What comes
//! from outside, names and records, leaves as JSON or as escaped text, never as markup; the page has no
//! resources but its own, and says so to the browser. On a loopback address only a loopback name is
//! answered, so that no web page can reach it under a name of its own.

mod answer;
mod data;
mod listen;
mod metrics;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::config::{Config, Problem};
use crate::pulse::Pulse;
use crate::status::Status;
use crate::status::live::{self, Live};
use listen::Listener;

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 64;

/// Of these, who listens for events, which may be for ever; the others are for health and metrics.
const LISTENERS_MAX: usize = 16;

/// A request's head must be there in this time.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Minimum time for which one reading of the ledger and the folder is served.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// It is also served for this multiple of the processor time that it took to read: however large the job is,
/// looking at it takes at most a hundredth of one core, up to [`KEPT_FOR_MAX`].
const REST: u32 = 100;

/// Nobody is shown anything older, whatever it costs.
const KEPT_FOR_MAX: Duration = Duration::from_secs(10);

/// How the job stood a moment ago, in each form that is asked for.
#[derive(Clone)]
struct Seen {
    good_until: Instant,
    page: Arc<str>,
    metrics: Arc<str>,
}

/// The state that every request is answered from.
struct Server {
    /// The one in use: a reload puts another in its place.
    config: Arc<Mutex<Config>>,
    pulse: Pulse,
    started_ms: i64,
    /// Only names of this machine are answered.
    local: bool,
    listeners: Arc<Semaphore>,
    seen: Mutex<Option<Seen>>,
}

/// Serves the job from a thread of its own, if its configuration says so. The socket is there when it
/// returns.
pub fn start(shared: &Arc<Mutex<Config>>, pulse: &Pulse, started_ms: i64) -> anyhow::Result<()> {
    let config = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(listen) = &config.written.http.listen else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("start the HTTP runtime")?;
    let listener = {
        let _guard = runtime.enter();
        Listener::bind(listen, &config).with_context(|| format!("listen at {listen}"))?
    };
    tracing::info!(address = listener.address(), "HTTP");
    let server = Server {
        config: shared.clone(),
        pulse: pulse.clone(),
        started_ms,
        local: listener.is_loopback(),
        listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
        seen: Mutex::default(),
    };
    let serve = move || runtime.block_on(accept(&listener, &Arc::new(server)));
    std::thread::Builder::new().name("http".to_owned()).spawn(serve).context("start HTTP")?;
    Ok(())
}

/// Whether a start of the job could serve where its configuration says.
///
/// # Errors
/// Names the key, and says why not.
pub fn check(config: &Config) -> anyhow::Result<()> {
    let Some(listen) = &config.written.http.listen else { return Ok(()) };
    // The daemon of this job may hold that address: then it is right.
    let known = Live::read(&config.state).listens;
    let is_it = known.is_none_or(|known| known == config.listens());
    let is_ours = is_it && live::runner(&config.state).is_some();
    Listener::check(listen, config, is_ours).map_err(|error| {
        let message = format!("found \"{listen}\", where nobody can listen: {error:#}");
        config.problem(&Problem::new("http.listen", message)).into()
    })
}

async fn accept(listener: &Listener, server: &Arc<Server>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let server = server.clone();
        match listener.accept().await {
            Ok(connection) => drop(tokio::spawn(async move {
                serve(connection, server).await;
                drop(place);
            })),
            Err(error) => {
                tracing::debug!(%error, "no HTTP connection");
                // Out of descriptors, as a rule: others have to be closed first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(connection: impl AsyncRead + AsyncWrite + Unpin, server: Arc<Server>) {
    let answer = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(answer::answer(&server, &request)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(connection), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

impl Server {
    /// How the job stands, or stood a moment ago.
    fn look(&self) -> anyhow::Result<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_ref().filter(|seen| Instant::now() < seen.good_until) {
            return Ok(seen.clone());
        }
        let begun = processor_time();
        let config = self.config();
        let status = Status::seen_by(&config, Some(std::process::id()))?;
        let metrics = metrics::text(&status).into();
        let page = data::page(&config, &status)?.to_string().into();
        let took = processor_time().saturating_sub(begun);
        let good_until = Instant::now() + kept_for(took);
        Ok(seen.insert(Seen { good_until, page, metrics }).clone())
    }

    /// The configuration in use.
    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a look is given out that took so much processor time.
fn kept_for(took: Duration) -> Duration {
    took.saturating_mul(REST).clamp(KEPT_FOR, KEPT_FOR_MAX)
}

/// Of this thread: a look that only had to wait, for a disk or a lock, is no reason to look less often.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_is_kept_longer_within_limits() {
        let kept = |ms| kept_for(Duration::from_millis(ms));
        assert_eq!(kept(0), Duration::from_secs(1));
        assert_eq!(kept(20), Duration::from_secs(2));
        assert_eq!(kept(60_000), Duration::from_secs(10));
    }
}
