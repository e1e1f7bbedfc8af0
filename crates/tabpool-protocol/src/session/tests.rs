//! Both sides against each other, with the time passed in.

use std::time::Duration;

use super::{HostEvent, HostSession, SessionConfig, SessionError, WorkerEvent, WorkerSession};
use crate::{ApiKind, Frame, HeldStates, Hello, Limits, Message, OLDEST_VERSION, RefusalCode, VERSION};

const fn s(v: u64) -> Duration {
    Duration::from_secs(v)
}

fn hello(oldest: u8, newest: u8) -> Frame {
    Message::Hello(Box::new(Hello { oldest, newest, token: "t".to_owned(), ..Hello::default() })).into()
}

fn joined() -> (HostSession, WorkerSession) {
    let mut host = HostSession::new(SessionConfig::default(), Limits::default(), s(0));
    let mut worker = WorkerSession::new(Limits::default(), s(10), s(0));
    let mut out = Vec::new();
    let event = host.receive(s(0), &hello(OLDEST_VERSION, VERSION).encode(), &mut out).expect("a hello");
    assert!(matches!(event, Some(HostEvent::Hello(h)) if h.token == "t"));
    let welcome = host.welcome(s(0), "session", false);
    let event = worker.receive(s(0), &welcome.encode(), &mut out).expect("a welcome");
    let want = WorkerEvent::Joined { session: "session".to_owned(), resumed: false, credits: 4 };
    assert_eq!(event, Some(want));
    (host, worker)
}

#[test]
fn heartbeats_keep_a_quiet_session_alive_and_silence_ends_it() {
    let (mut host, mut worker) = joined();
    for t in 1..60 {
        let mut pings = Vec::new();
        host.tick(s(t), &mut pings).expect("alive");
        for ping in pings {
            let mut pongs = Vec::new();
            worker.receive(s(t), &ping.encode(), &mut pongs).expect("a ping");
            for pong in pongs {
                host.receive(s(t), &pong.encode(), &mut Vec::new()).expect("a pong");
            }
        }
        worker.tick(s(t), &mut Vec::new()).expect("alive");
    }
    assert_eq!(host.tick(s(80), &mut Vec::new()), Err(SessionError::Silent(s(22))));
}

#[test]
fn a_newer_worker_is_refused_with_the_versions() {
    let mut host = HostSession::new(SessionConfig::default(), Limits::default(), s(0));
    let mut out = Vec::new();
    let err =
        host.receive(s(0), &hello(VERSION + 1, VERSION + 3).encode_as(VERSION + 3), &mut out).expect_err("too new");
    assert!(matches!(err, SessionError::Refused { code: RefusalCode::Version, .. }));
    assert!(matches!(&out[0].message, Message::Refused { code: RefusalCode::Version, reason }
        if reason.contains("versions 4 to 6, this host 3 to 3")));
}

#[test]
fn work_before_the_handshake_and_host_frames_from_a_worker_are_refused() {
    let run: Frame = Message::Run { program: 1, api: ApiKind::Cpu, attempt: 1, states: None }.into();
    let mut host = HostSession::new(SessionConfig::default(), Limits::default(), s(0));
    let mut out = Vec::new();
    assert_eq!(host.receive(s(0), &run.encode(), &mut out), Err(SessionError::Unexpected(5)));
    assert!(matches!(out[0].message, Message::Refused { code: RefusalCode::Malformed, .. }));
    let (mut host, _) = joined();
    assert_eq!(host.receive(s(1), &run.encode(), &mut Vec::new()), Err(SessionError::Unexpected(5)));
}

#[test]
fn junk_ends_the_session_that_sent_it() {
    let (mut host, _) = joined();
    let err = host.receive(s(1), &bytes::Bytes::from_static(b"hello?"), &mut Vec::new()).expect_err("junk");
    assert!(matches!(err, SessionError::Frame(_)));
}

#[test]
fn a_silent_connection_has_a_bounded_handshake() {
    let mut host = HostSession::new(SessionConfig::default(), Limits::default(), s(0));
    assert_eq!(host.deadline(), Some(s(10)));
    assert_eq!(host.tick(s(10), &mut Vec::new()), Err(SessionError::Handshake(s(10))));
}

#[test]
fn states_are_asked_for_by_the_host_and_answered_by_the_worker_only() {
    let ask = Frame::from(Message::FreeStates { states: 4 });
    let answer = Frame::from(Message::StatesMade { states: 4, api: ApiKind::Cpu, bytes: 16 });
    let (mut host, mut worker) = joined();
    let event = worker.receive(s(1), &ask.encode(), &mut Vec::new());
    assert_eq!(event, Ok(Some(WorkerEvent::Frame(ask.clone()))));
    let event = host.receive(s(1), &answer.encode(), &mut Vec::new());
    assert_eq!(event, Ok(Some(HostEvent::Frame(answer.clone()))));
    assert_eq!(worker.receive(s(2), &answer.encode(), &mut Vec::new()), Err(SessionError::Unexpected(73)));
    assert_eq!(host.receive(s(2), &ask.encode(), &mut Vec::new()), Err(SessionError::Unexpected(12)));
}

#[test]
fn a_hello_brings_the_states_that_are_held() {
    let states = vec![HeldStates { states: 1 << 40, api: ApiKind::WebGpu, bytes: None }];
    let hello = Hello { oldest: OLDEST_VERSION, newest: VERSION, states: states.clone(), ..Hello::default() };
    let mut host = HostSession::new(SessionConfig::default(), Limits::default(), s(0));
    let bytes = Frame::from(Message::Hello(Box::new(hello))).encode();
    let event = host.receive(s(0), &bytes, &mut Vec::new()).expect("a hello");
    assert!(matches!(event, Some(HostEvent::Hello(h)) if h.states == states));
}
