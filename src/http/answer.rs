//! One request, one answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::{Server, data, metrics};
use crate::status::live::Live;

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The rights of the page in a browser: it may load only its own parts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How often those who listen hear how the job stands.
const EVENTS_EVERY: Duration = Duration::from_secs(2);

/// The loop of the daemon is stuck when it has been silent for so long: idle, it wakes twice a minute.
const STUCK_AFTER: Duration = Duration::from_mins(2);

type Answer = Response<Either<Full<Bytes>, Events>>;

/// Answers a request.
pub fn answer(server: &Arc<Server>, request: &Request<Incoming>) -> Answer {
    if server.local && !asks_for_this_machine(request) {
        return text(StatusCode::FORBIDDEN, "only names of this machine are answered\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/" => typed("text/html; charset=utf-8", HTML),
        "/page.css" => typed("text/css; charset=utf-8", STYLE),
        "/page.js" => typed("text/javascript; charset=utf-8", SCRIPT),
        "/status.json" => made(server.look().map(|seen| seen.page), "application/json"),
        "/day.json" => {
            let day = data::day(&server.config()).map(|day| Arc::from(day.to_string()));
            made(day, "application/json")
        }
        "/metrics" => made(server.look().map(|seen| seen.metrics), metrics::CONTENT_TYPE),
        "/events" => events(server.clone()),
        "/healthz" => healthy(server),
        "/readyz" => ready(server),
        _ => text(StatusCode::NOT_FOUND, "there is /, /metrics, /healthz, /readyz, /status.json\n"),
    }
}

/// A page of another origin can make a browser ask here, but only under its own name.
fn asks_for_this_machine(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(header::HOST) else { return true };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: std::net::IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

/// Healthy while the loop of the daemon goes round.
fn healthy(server: &Server) -> Answer {
    let silent = server.pulse.silent_for();
    if silent < STUCK_AFTER {
        return text(StatusCode::OK, "ok\n");
    }
    let silent = silent.as_secs();
    text(StatusCode::SERVICE_UNAVAILABLE, format!("the daemon is stuck for {silent} seconds\n"))
}

/// Ready when the job is open and does not pause.
fn ready(server: &Server) -> Answer {
    let live = Live::read(&server.config().state);
    if live.started_ms != server.started_ms {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the job is not open yet\n");
    }
    match live.paused {
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("paused: {reason}\n")),
        None => text(StatusCode::OK, "ok\n"),
    }
}

fn made(made: anyhow::Result<Arc<str>>, kind: &'static str) -> Answer {
    match made {
        Ok(text) => typed(kind, text.to_string()),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = typed("text/plain; charset=utf-8", body);
    *answer.status_mut() = status;
    answer
}

fn typed(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    headed(kind, Either::Left(Full::new(body.into())))
}

fn headed(kind: &'static str, body: Either<Full<Bytes>, Events>) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// A listener stays for as long as it likes, so there is an end to how many there are.
fn events(server: Arc<Server>) -> Answer {
    let Ok(place) = server.listeners.clone().try_acquire_owned() else {
        let message = "too many listen already: close a page\n";
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, message);
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    };
    let mut interval = tokio::time::interval(EVENTS_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    headed("text/event-stream", Either::Right(Events { server, interval, _place: place }))
}

/// How the job stands, again and again (server-sent events, HTML standard 9.2).
pub struct Events {
    server: Arc<Server>,
    interval: Interval,
    _place: OwnedSemaphorePermit,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.interval.poll_tick(context));
        // JSON has no line ends but escaped ones.
        let event = match self.server.look() {
            Ok(seen) => format!("data: {}\n\n", seen.page),
            Err(error) => {
                format!("event: trouble\ndata: {}\n\n", serde_json::json!(format!("{error:#}")))
            }
        };
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}
