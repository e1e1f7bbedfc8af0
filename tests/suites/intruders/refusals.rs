//! Who is not let in, and what is said to him.

use std::time::Duration;

use bytes::Bytes;
use tabpool_bridge::{BridgeConfig, StrikeLimit};
use tabpool_pool::{JoinEndpoint, JoinOptions, ResourcePool, Revocation};
use tabpool_protocol::{Frame, Hello, Message, RefusalCode, VERSION};
use tabpool_tests::intruder::{Door, hello};
use tabpool_tests::scene;
use tabpool_tests::{Fault, Outcome, require};

use super::{Stage, TOLD_WITHIN, greeting, refusal_code};

/// Sends a hello, and expects this refusal and this reason in what the pool tells.
async fn refused(mut first: impl FnMut(&Door) -> Bytes, code: RefusalCode, reason: &str) -> Outcome {
    let mut stage = Stage::new().await?;
    let mut intruder = stage.door.knock(&[]).await?;
    intruder.send_bytes(first(&stage.door)).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(code), || format!("its last words were {words:?}"))?;
    let told = stage.rejection().await?;
    require(told.contains(reason), || format!("{told:?} says nothing of {reason:?}"))?;
    stage.ends_well("rejected", reason).await
}

/// Knocks with a token, and expects to be refused with this code.
async fn turned_away(door: &Door, code: RefusalCode) -> Outcome {
    let mut intruder = door.knock(&[]).await?;
    intruder.send(greeting(hello(&door.token))).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(code), || format!("its last words were {words:?}"))
}

#[tokio::test]
async fn a_revoked_ticket_lets_nobody_in_and_ends_whom_it_brought() -> Outcome {
    let mut stage = Stage::new().await?;
    let tickets = ["kept", "ended"].map(|label| stage.pool.join(JoinOptions::new().label(label)));
    let [kept, ended] = tickets;
    let (kept, ended) = (kept?, ended?);
    let (stays, mut goes) = (Door::at(kept.url())?.join().await?, Door::at(ended.url())?.join().await?);
    let here = |pool: &ResourcePool| pool.workers().iter().filter(|worker| worker.ticket.is_some()).count();
    scene::eventually("both joins", TOLD_WITHIN, || (here(&stage.pool) == 2).then_some(())).await?;
    require((kept.tabs(), ended.tabs()) == (1, 1), || "each brought one".to_owned())?;

    kept.revoke(Revocation::KeepWorkers);
    ended.revoke(Revocation::EndWorkers);
    let words = goes.last_words().await?;
    let told = matches!(&words, Some(Message::Bye { reason }) if reason.contains("revoked"));
    require(told, || format!("its last words were {words:?}"))?;
    require(stage.loss().await?.contains("revoked"), || "the pool says nothing of it".to_owned())?;
    for ticket in [&kept, &ended] {
        turned_away(&Door::at(ticket.url())?, RefusalCode::Token).await?;
        require(!ticket.is_valid(), || format!("{ticket:?} is still good"))?;
    }
    let left: Vec<_> = stage.pool.workers().iter().filter_map(|worker| worker.ticket).collect();
    require(left == [kept.id()], || format!("{left:?} are here"))?;
    // It is listed for as long as the worker that it brought is here.
    let listed: Vec<_> = stage.pool.tickets().iter().map(tabpool_pool::JoinTicket::id).collect();
    require(listed.contains(&kept.id()) && !listed.contains(&ended.id()), || format!("{listed:?} are listed"))?;
    drop(stays);
    Ok(stage.pool.close().await?)
}

#[tokio::test]
async fn a_ticket_lets_no_more_tabs_in_than_it_says_and_nobody_after_its_time() -> Outcome {
    let stage = Stage::new().await?;
    let one = stage.pool.join(JoinOptions::new().most_tabs(1))?;
    let door = Door::at(one.url())?;
    let first = door.join().await?;
    turned_away(&door, RefusalCode::Full).await?;
    drop(first);
    // Its time to come back is over soon.
    scene::eventually("the first one's end", TOLD_WITHIN, || (one.tabs() == 0).then_some(())).await?;
    let _second = door.join().await?;

    let short = stage.pool.join(JoinOptions::new().lifetime(Duration::from_millis(1)))?;
    scene::eventually("its time to be over", TOLD_WITHIN, || (!short.is_valid()).then_some(())).await?;
    turned_away(&Door::at(short.url())?, RefusalCode::Token).await?;
    let refused = stage.pool.join(JoinOptions::new().most_tabs(0)).err().map(|e| e.to_string());
    require(refused.as_deref() == Some("a ticket for no tabs lets nobody in"), || format!("{refused:?}"))?;
    Ok(stage.pool.close().await?)
}

#[tokio::test]
async fn a_wrong_token_is_refused() -> Outcome {
    refused(|_| greeting(hello("guess")).encode(), RefusalCode::Token, "the join token is not valid").await
}

#[tokio::test]
async fn a_newer_protocol_is_refused_by_its_version() -> Outcome {
    let newer = |door: &Door| {
        let next = VERSION + 1;
        greeting(Hello { oldest: next, newest: next, ..hello(&door.token) }).encode_as(next)
    };
    refused(newer, RefusalCode::Version, &format!("versions {0} to {0}", VERSION + 1)).await
}

#[tokio::test]
async fn junk_instead_of_a_hello_is_refused() -> Outcome {
    let junk = Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n and so on");
    refused(move |_| junk.clone(), RefusalCode::Malformed, "a frame could not be read").await
}

#[tokio::test]
async fn a_frame_before_the_hello_is_refused() -> Outcome {
    let early = Frame::from(Message::Status(tabpool_protocol::WorkerStatus::default()));
    refused(move |_| early.encode(), RefusalCode::Malformed, "may not come now").await
}

#[tokio::test]
async fn text_instead_of_a_hello_is_refused() -> Outcome {
    let mut stage = Stage::new().await?;
    let mut intruder = stage.door.knock(&[]).await?;
    intruder.send_text("hello").await?;
    let words = intruder.last_words().await?;
    require(words.is_none(), || format!("its last words were {words:?}"))?;
    let told = stage.rejection().await?;
    require(told.contains("a text message"), || told.clone())?;
    stage.ends_well("rejected", "a text message").await
}

/// An address whose joins fail is not listened to for a while; the pool's own address has nothing to do with that.
#[tokio::test]
async fn who_guesses_tokens_at_the_endpoint_is_not_listened_to_any_more() -> Outcome {
    let folder = tempfile::tempdir()?;
    let strikes = StrikeLimit { strikes: 4, forgotten_after: Duration::from_secs(600) };
    let bridge = BridgeConfig { strikes, ..BridgeConfig::default() };
    let endpoint = JoinEndpoint::on("127.0.0.2:0".parse()?);
    let pool = ResourcePool::builder().data_dir(folder.path()).bridge(bridge).join_from(endpoint).build().await?;
    let ticket = pool.join(JoinOptions::new().most_tabs(1))?;
    let door = Door::at(ticket.url())?;
    let mut good = door.join().await?;
    // The host's own reasons are no fault of theirs.
    for _ in 0..5 {
        turned_away(&door, RefusalCode::Full).await?;
    }
    let guess = Door { token: "guess".to_owned(), ..door.clone() };
    for _ in 0..4 {
        turned_away(&guess, RefusalCode::Token).await?;
    }
    for address in [&guess, &door] {
        let status = address.knock(&[]).await.err().map(|e| e.to_string());
        require(status.as_deref() == Some("status 429"), || format!("{status:?}"))?;
    }
    good.send(Message::Ping { nonce: 1 }.into()).await?;
    let answered = async {
        while let Some(frame) = good.hear().await? {
            if frame.message == (Message::Pong { nonce: 1 }) {
                return Ok(());
            }
        }
        Err::<(), Fault>("the good one was sent away".into())
    };
    answered.await?;
    Ok(pool.close().await?)
}

#[tokio::test]
async fn a_page_of_another_site_may_not_join() -> Outcome {
    knocked("origin", "http://evil.example").await
}

#[tokio::test]
async fn a_foreign_host_name_is_not_answered() -> Outcome {
    // A name of somebody else's that points to loopback: what a rebinding attack asks for.
    knocked("host", "evil.example").await
}

/// The socket is not even opened, so nobody has to be rejected; the pool's own origin and name are let in.
async fn knocked(header: &'static str, value: &str) -> Outcome {
    let mut stage = Stage::new().await?;
    let status = stage.door.knock(&[(header, value)]).await.err().map(|e| e.to_string());
    require(status.as_deref() == Some("status 403"), || format!("{header}: {value} gives {status:?}"))?;
    let address = stage.door.address.clone();
    let own = if header == "origin" { format!("http://{address}") } else { address };
    let mut intruder = stage.door.knock(&[(header, &own)]).await?;
    intruder.send(greeting(hello("guess"))).await?;
    let words = intruder.last_words().await?;
    require(refusal_code(words.as_ref()) == Some(RefusalCode::Token), || format!("its last words were {words:?}"))?;
    stage.rejection().await?;
    stage.ends_well("rejected", "the join token").await
}
