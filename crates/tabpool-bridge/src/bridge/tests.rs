//! Joins, refusals, cut and resumed links, over in-process links and real WebSockets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tabpool_protocol::{Frame, Hello, Limits, Message, OLDEST_VERSION, RefusalCode, SessionConfig, VERSION};
use tokio_tungstenite::tungstenite;

use super::{Bridge, BridgeConfig, BridgeEvent, Events};
use crate::{Grant, LinkError, LocalLink, Token};

fn quick() -> BridgeConfig {
    BridgeConfig { grace: Duration::from_millis(300), parting: Duration::from_millis(300), ..BridgeConfig::default() }
}

fn hello(token: &str, resume: Option<&str>) -> Bytes {
    let hello = Hello {
        oldest: OLDEST_VERSION,
        newest: VERSION,
        token: token.to_owned(),
        resume: resume.map(str::to_owned),
        held: vec![3],
        ..Hello::default()
    };
    Frame::from(Message::Hello(Box::new(hello))).encode()
}

async fn message(link: &mut LocalLink) -> Message {
    let bytes = link.incoming.recv().await.expect("a message");
    Frame::decode(&bytes, &Limits::default()).expect("a frame").message
}

async fn join(bridge: &Bridge, events: &mut Events) -> (LocalLink, String, crate::WorkerLink, Token) {
    let token = bridge.tokens().issue(Grant { tag: Some(9), most: None }, Duration::from_secs(60));
    let mut link = bridge.connect_local();
    link.outgoing.send(hello(&token.secret, None)).await.expect("sent");
    let Message::Welcome { session, resumed: false, .. } = message(&mut link).await else { panic!("no welcome") };
    let Some(BridgeEvent::Joined { link: handle, tag: Some(9), .. }) = events.recv().await else { panic!("no join") };
    (link, session, handle, token)
}

#[tokio::test]
async fn a_worker_joins_gets_frames_and_answers() {
    let (bridge, mut events) = Bridge::new(quick());
    let (mut link, _, handle, _) = join(&bridge, &mut events).await;
    handle.send(Message::Unload { program: 1, api: tabpool_protocol::ApiKind::Cpu }.into()).expect("queued");
    assert!(matches!(message(&mut link).await, Message::Unload { program: 1, .. }));
    let status = Frame::from(Message::Status(Default::default()));
    link.outgoing.send(status.encode()).await.expect("sent");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Frame { frame, .. }) if frame == status));
    handle.close("enough");
    assert!(matches!(message(&mut link).await, Message::Bye { reason } if reason == "enough"));
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { .. })));
    assert_eq!(handle.send(Message::Ping { nonce: 1 }.into()), Err(LinkError::Down));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_nobody_else_is_affected() {
    let (bridge, mut events) = Bridge::new(quick());
    let (mut good, _, handle, _) = join(&bridge, &mut events).await;
    let mut link = bridge.connect_local();
    link.outgoing.send(hello("guess", None)).await.expect("sent");
    assert!(matches!(message(&mut link).await, Message::Refused { code: RefusalCode::Token, .. }));
    assert!(link.incoming.recv().await.is_none(), "the connection is closed");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Refused { reason, .. })
        if reason == "refused: the join token is not valid"));
    handle.send(Message::Ping { nonce: 5 }.into()).expect("still linked");
    assert!(matches!(message(&mut good).await, Message::Ping { nonce: 5 }));
}

#[tokio::test]
async fn a_cut_link_resumes_with_its_worker_and_a_late_one_does_not() {
    let (bridge, mut events) = Bridge::new(quick());
    let (link, session, handle, token) = join(&bridge, &mut events).await;
    drop(link);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Detached { .. })));
    assert_eq!(handle.send(Message::Ping { nonce: 1 }.into()), Err(LinkError::Down));
    let mut link = bridge.connect_local();
    link.outgoing.send(hello(&token.secret, Some(&session))).await.expect("sent");
    assert!(matches!(message(&mut link).await, Message::Welcome { resumed: true, .. }));
    let Some(BridgeEvent::Resumed { worker, hello: said }) = events.recv().await else { panic!("no resumption") };
    assert_eq!((worker, &said.held[..]), (handle.id(), &[3][..]));
    handle.send(Message::Ping { nonce: 2 }.into()).expect("linked again");
    drop(link);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Detached { .. })));
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { worker, .. }) if worker == handle.id()));
    let mut link = bridge.connect_local();
    link.outgoing.send(hello(&token.secret, Some(&session))).await.expect("sent");
    assert!(matches!(message(&mut link).await, Message::Welcome { resumed: false, .. }));
}

/// Sends a hello, and gives what the host answers.
async fn answer(bridge: &Bridge, token: &Token, resume: Option<&str>) -> (LocalLink, Message) {
    let mut link = bridge.connect_local();
    link.outgoing.send(hello(&token.secret, resume)).await.expect("sent");
    let answer = message(&mut link).await;
    (link, answer)
}

#[tokio::test]
async fn a_worker_comes_back_after_its_token_was_revoked_but_not_after_it_was_expelled() {
    let (bridge, mut events) = Bridge::new(quick());
    let (link, session, handle, token) = join(&bridge, &mut events).await;
    bridge.tokens().revoke(token.id);
    drop(link);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Detached { .. })));
    let (mut link, welcome) = answer(&bridge, &token, Some(&session)).await;
    assert!(matches!(welcome, Message::Welcome { resumed: true, .. }), "{welcome:?}");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Resumed { .. })));
    let (_, refusal) = answer(&bridge, &token, None).await;
    assert!(matches!(refusal, Message::Refused { code: RefusalCode::Token, .. }), "{refusal:?}");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Refused { .. })));

    bridge.expel(token.id, "enough");
    assert!(matches!(message(&mut link).await, Message::Bye { reason } if reason == "enough"));
    drop(link);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { worker, .. }) if worker == handle.id()));
}

#[tokio::test]
async fn a_worker_whose_link_is_cut_can_be_expelled() {
    let (bridge, mut events) = Bridge::new(quick());
    let (link, session, handle, token) = join(&bridge, &mut events).await;
    drop(link);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Detached { .. })));
    bridge.tokens().revoke(token.id);
    bridge.expel(token.id, "enough");
    let (_, refusal) = answer(&bridge, &token, Some(&session)).await;
    assert!(matches!(refusal, Message::Refused { code: RefusalCode::Token, .. }), "{refusal:?}");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Refused { .. })));
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { worker, .. }) if worker == handle.id()));
}

#[tokio::test]
async fn a_token_for_so_many_workers_lets_no_more_in_until_one_is_gone() {
    let (bridge, mut events) = Bridge::new(quick());
    let token = bridge.tokens().issue(Grant { tag: None, most: Some(2) }, Duration::from_secs(60));
    let (first, _) = answer(&bridge, &token, None).await;
    let (_second, _) = answer(&bridge, &token, None).await;
    let (_other, _) = answer(&bridge, &bridge.tokens().issue(Grant::default(), Duration::from_secs(60)), None).await;
    for _ in 0..3 {
        assert!(matches!(events.recv().await, Some(BridgeEvent::Joined { .. })));
    }
    assert_eq!(bridge.joined_with(token.id), 2);
    let (_, refusal) = answer(&bridge, &token, None).await;
    assert!(
        matches!(&refusal, Message::Refused { code: RefusalCode::Full, reason } if reason.contains("2 workers")),
        "{refusal:?}"
    );
    assert!(matches!(events.recv().await, Some(BridgeEvent::Refused { .. })));
    drop(first);
    assert!(matches!(events.recv().await, Some(BridgeEvent::Detached { .. })));
    assert_eq!(bridge.joined_with(token.id), 2, "it may come back");
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { .. })));
    let (_third, welcome) = answer(&bridge, &token, None).await;
    assert!(matches!(welcome, Message::Welcome { .. }), "{welcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_is_detached_and_then_lost() {
    let session =
        SessionConfig { heartbeat: Duration::from_secs(1), timeout: Duration::from_secs(3), ..Default::default() };
    let (bridge, mut events) = Bridge::new(BridgeConfig { session, ..quick() });
    let (mut link, ..) = join(&bridge, &mut events).await;
    assert!(
        matches!(events.recv().await, Some(BridgeEvent::Detached { reason, .. }) if reason.contains("nothing was heard"))
    );
    assert!(matches!(message(&mut link).await, Message::Ping { .. }));
    assert!(matches!(events.recv().await, Some(BridgeEvent::Lost { .. })));
}

#[tokio::test]
async fn web_sockets_join_and_foreign_origins_do_not() {
    let (bridge, mut events) = Bridge::new(quick());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = bridge.router().into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let token = bridge.tokens().issue(Grant::default(), Duration::from_secs(60));

    let request = |origin: &str| {
        tungstenite::handshake::client::Request::builder()
            .uri(format!("ws://{address}/link"))
            .header("Host", address.to_string())
            .header("Origin", origin)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key())
            .body(())
            .expect("a request")
    };
    let err = tokio_tungstenite::connect_async(request("http://evil.example")).await.expect_err("refused");
    assert!(err.to_string().contains("403"), "{err}");

    let (mut socket, _) = tokio_tungstenite::connect_async(request(&format!("http://{address}"))).await.expect("open");
    socket.send(tungstenite::Message::Binary(hello(&token.secret, None))).await.expect("sent");
    let reply = socket.next().await.expect("a message").expect("sound").into_data();
    let frame = Frame::decode(&reply, &Limits::default()).expect("a frame");
    assert!(matches!(frame.message, Message::Welcome { .. }));
    assert!(matches!(events.recv().await, Some(BridgeEvent::Joined { .. })));

    socket.send(tungstenite::Message::Text("hello".into())).await.expect("sent");
    assert!(
        matches!(events.recv().await, Some(BridgeEvent::Detached { reason, .. }) if reason.contains("text message"))
    );
    server.abort();
}
