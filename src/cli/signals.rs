//! Signals, as wakes: the only use of an asynchronous runtime.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::pulse::Pulse;
use crate::transform::command;

/// Signals that do nothing: SIGIO, which the kernel sends when a writer meets our lease; SIGXFSZ, so
/// that a file at its limit of size is an error of the write; and those that scripts for the rotation of
/// logs send to any process there.
const IGNORED: [libc::c_int; 5] =
    [libc::SIGIO, libc::SIGXFSZ, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];

/// From now on SIGTERM and SIGINT stop and SIGHUP reloads.
pub fn forward(wakes: SyncSender<()>, pulse: Pulse) -> anyhow::Result<()> {
    // The pulse first: work under way looks at it, and so does the loop before it sleeps. A queue that is full
    // holds wakes enough.
    let hangup = wakes.clone();
    let asked = pulse.clone();
    let reload = move || {
        asked.ask_reload();
        let _ = hangup.try_send(());
    };
    let stop = move |signal| {
        pulse.stop_by(signal);
        let _ = wakes.try_send(());
    };
    listen(stop, Some(reload))
}

/// How long a verb may take to end without help.
const PATIENCE: Duration = Duration::from_millis(1500);

/// From now on SIGTERM, SIGINT and SIGHUP stop what works with this pulse.
pub fn stop_on_any(pulse: &Pulse) -> anyhow::Result<()> {
    let pulse = pulse.clone();
    listen(move |signal| pulse.stop_by(signal), None::<fn()>)
}

/// The same. Should the work be in a call that waits for somebody, the process ends all the same; a command has
/// its time to end before.
pub fn stop_or_end_on_any(pulse: &Pulse) -> anyhow::Result<()> {
    let pulse = pulse.clone();
    let stop = move |signal| {
        pulse.stop_by(signal);
        let end = move || {
            let begun = Instant::now();
            std::thread::sleep(PATIENCE);
            while command::is_running() && begun.elapsed() < command::ENDING {
                std::thread::sleep(Duration::from_millis(10));
            }
            command::end_all();
            crate::sink::replaced::give_up_all();
            std::process::exit(128 + signal)
        };
        // Without a thread the signal is still heard by all that looks at the pulse.
        let _ = std::thread::Builder::new().spawn(end);
    };
    listen(stop, None::<fn()>)
}

/// True for a signal that the parent process has set to be ignored, as nohup(1) does.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let text = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = text.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

fn listen(
    stop: impl Fn(i32) + Send + Sync + 'static,
    reload: Option<impl Fn() + Send + 'static>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start the signal runtime")?;
    let guard = runtime.enter();
    let listen_to = |kind| signal(kind).context("listen to signals");
    let wanted = |signal| !is_ignored(signal) || signal == libc::SIGHUP && reload.is_some();
    let listen_if = |signal| {
        let heard = wanted(signal).then(|| listen_to(SignalKind::from_raw(signal)));
        heard.transpose()
    };
    let mut terminate = listen_if(libc::SIGTERM)?;
    let mut interrupt = listen_if(libc::SIGINT)?;
    let mut hangup = listen_if(libc::SIGHUP)?;
    // A handler that is never asked is as good as one that does nothing.
    let ignored = IGNORED
        .map(|signal| listen_to(SignalKind::from_raw(signal)))
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let _ignored = ignored;
            runtime.block_on(async {
                tokio::join!(
                    each(&mut terminate, || stop(libc::SIGTERM)),
                    each(&mut interrupt, || stop(libc::SIGINT)),
                    each(&mut hangup, || match &reload {
                        Some(reload) => reload(),
                        None => stop(libc::SIGHUP),
                    }),
                )
            });
        })
        .context("start the signal thread")?;
    Ok(())
}

async fn each(signal: &mut Option<Signal>, mut act: impl FnMut()) {
    let Some(signal) = signal else { return };
    while signal.recv().await.is_some() {
        act();
    }
}
