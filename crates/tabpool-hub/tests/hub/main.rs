//! Downloads from a hub on loopback that fails in every way we could think of.

mod encrypted;
mod proxies;
mod repository;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tabpool_hub::{Downloaded, HubClient, HubClientBuilder, HubError, HubModel};

use repository::{COMMIT, Repository, hex};
use server::{Answer, Ending, Request, Server};

const MIB: usize = 1 << 20;

fn client(endpoint: impl Into<String>) -> HubClientBuilder {
    let seconds = Duration::from_secs(10);
    HubClient::builder().endpoint(endpoint).timeouts(seconds, seconds).retries(2, Duration::from_millis(1))
}

async fn download(client: HubClientBuilder, folder: &Path) -> Result<Downloaded, HubError> {
    let model = HubModel::parse("hf:org/name").expect("a name");
    client.build().expect("a client").download(&model, folder, &mut |_| {}).await
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Every file in a folder, by its path inside, parts included.
fn files_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("inside").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn assert_whole(folder: &Path, repository: &Repository) {
    let paths: Vec<_> = repository.files.iter().map(|(path, _)| *path).collect();
    assert_eq!(files_in(folder), paths);
    for (path, bytes) in &repository.files {
        assert!(fs::read(folder.join(path)).expect("reads") == *bytes, "{path} differs");
    }
}

#[tokio::test]
async fn a_model_arrives_whole_and_is_not_fetched_twice() {
    let (folder, repository) = (folder(), Repository::new(3 * MIB + 7));
    let hub = Server::start({
        let repository = repository.clone();
        move |request| repository.answer(request)
    })
    .await;
    let total = (3 * MIB + 7 + 13) as u64;
    let mut last = 0;
    let model = HubModel::parse("hf:org/name").expect("a name");
    let with_token = client(hub.url()).token("hf_secret").build().expect("a client");
    let first = with_token
        .download(&model, folder.path(), &mut |progress| {
            assert!(progress.done >= last && progress.total == total);
            last = progress.done;
        })
        .await
        .expect("downloads");
    assert_eq!(first, Downloaded { commit: COMMIT.into(), files: 2, bytes: total, bytes_fetched: total });
    assert_eq!(last, total);
    assert_whole(folder.path(), &repository);
    assert!(hub.seen().iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));

    let before = hub.seen().len();
    let again = download(client(hub.url()), folder.path()).await.expect("is there");
    assert_eq!((again.bytes, again.bytes_fetched), (total, 0));
    assert_eq!(hub.seen().len(), before + 1, "only the list is asked for");

    // A file that changed on disk, at the same length, is noticed and fetched again.
    fs::write(folder.path().join("1_Pooling/config.json"), b"{\"mean\":fals}").expect("damaged");
    let healed = download(client(hub.url()), folder.path()).await.expect("heals");
    assert_eq!(healed.bytes_fetched, 13);
    assert_whole(folder.path(), &repository);
}

#[tokio::test]
async fn a_connection_that_is_cut_goes_on_where_it_stopped() {
    let (folder, repository) = (folder(), Repository::new(3 * MIB));
    let requests = Arc::new(AtomicUsize::new(0));
    let hub = Server::start({
        let (repository, requests) = (repository.clone(), Arc::clone(&requests));
        move |request| {
            let answer = repository.answer(request);
            // Five cuts: more than the retries allowed without getting anywhere.
            if request.target.ends_with("safetensors") && requests.fetch_add(1, Ordering::SeqCst) < 5 {
                return answer.cut(500_000, Ending::Close);
            }
            answer
        }
    })
    .await;
    let downloaded = download(client(hub.url()), folder.path()).await.expect("downloads");
    assert_eq!(downloaded.bytes_fetched, downloaded.bytes, "no byte came twice");
    let from: Vec<_> = hub.seen_for("safetensors").iter().map(Request::from).collect();
    let expected: Vec<_> = [None].into_iter().chain((1..=5).map(|cut| Some(cut * 500_000))).collect();
    assert_eq!(from, expected);
    assert_whole(folder.path(), &repository);
}

#[tokio::test]
async fn a_download_that_was_dropped_goes_on_where_it_stopped() {
    let (folder, repository) = (folder(), Repository::new(4 * MIB));
    let hanging = Arc::new(AtomicUsize::new(1));
    let hub = Server::start({
        let (repository, hanging) = (repository.clone(), Arc::clone(&hanging));
        move |request| {
            let answer = repository.answer(request);
            match hanging.load(Ordering::SeqCst) {
                1 if request.target.ends_with("safetensors") => answer.cut(3 * MIB + 9, Ending::Hang),
                _ => answer,
            }
        }
    })
    .await;
    let model = HubModel::parse("hf:org/name").expect("a name");
    let first = client(hub.url()).build().expect("a client");
    let (arrived, mut waiting) = tokio::sync::mpsc::channel(1);
    let mut report = |progress: tabpool_hub::Progress<'_>| {
        if progress.file_done == (3 * MIB + 9) as u64 {
            let _ = arrived.try_send(());
        }
    };
    tokio::select! {
        result = first.download(&model, folder.path(), &mut report) => panic!("the server hangs, yet {result:?}"),
        Some(()) = waiting.recv() => {}
    }
    let parts = files_in(folder.path());
    assert!(parts.iter().any(|path| path.starts_with(".model.safetensors.") && path.ends_with(".part")), "{parts:?}");

    hanging.store(0, Ordering::SeqCst);
    let downloaded = download(client(hub.url()), folder.path()).await.expect("goes on");
    let from = hub.seen_for("safetensors")[1].from().expect("a range");
    assert!(from >= 2 * MIB, "at most what had not been written yet comes again, but it went on from {from}");
    assert_eq!(downloaded.bytes_fetched, (4 * MIB - from) as u64);
    assert_whole(folder.path(), &repository);
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_from_the_beginning() {
    let (folder, repository) = (folder(), Repository::new(2 * MIB));
    let requests = Arc::new(AtomicUsize::new(0));
    let hub = Server::start({
        let (repository, requests) = (repository.clone(), Arc::clone(&requests));
        move |request| {
            if !request.target.ends_with("safetensors") {
                return repository.answer(request);
            }
            let answer = Answer::new(200, repository.weights());
            if requests.fetch_add(1, Ordering::SeqCst) == 0 { answer.cut(MIB + 3, Ending::Close) } else { answer }
        }
    })
    .await;
    let downloaded = download(client(hub.url()), folder.path()).await.expect("downloads");
    assert_eq!(downloaded.bytes_fetched, (3 * MIB + 3 + 13) as u64);
    assert_whole(folder.path(), &repository);
}

#[tokio::test]
async fn a_server_that_calls_the_range_wrong_or_sends_another_is_not_believed() {
    for wrong_range in [false, true] {
        let (folder, repository) = (folder(), Repository::new(2 * MIB));
        let hub = Server::start({
            let repository = repository.clone();
            move |request| match request.from() {
                Some(_) if wrong_range => {
                    Answer::new(206, &repository.weights()[5..]).with("content-range", "bytes 5-2097151/2097152")
                }
                Some(_) => Answer::new(416, "").with("content-range", "bytes */99"),
                None => {
                    let answer = repository.answer(request);
                    let first = request.target.ends_with("safetensors");
                    if first && wrong_range { answer.cut(MIB, Ending::Close) } else { answer }
                }
            }
        })
        .await;
        if wrong_range {
            let error = download(client(hub.url()), folder.path()).await.expect_err("other bytes");
            assert!(error.to_string().contains("other ones came"), "{error}");
        } else {
            let sha256 = hex(&Sha256::digest(repository.weights()));
            let part = folder.path().join(format!(".model.safetensors.{}.part", &sha256[..16]));
            fs::write(part, b"an earlier beginning").expect("written");
            download(client(hub.url()), folder.path()).await.expect("begins again");
            assert_whole(folder.path(), &repository);
        }
    }
}

#[tokio::test]
async fn bytes_that_are_not_the_listed_ones_are_removed_and_named() {
    let (folder, repository) = (folder(), Repository::new(1000));
    let hub = Server::start({
        let repository = repository.clone();
        move |request| {
            let mut answer = repository.answer(request);
            if request.target.ends_with("safetensors") {
                answer.body[77] ^= 4;
            }
            answer
        }
    })
    .await;
    let error = download(client(hub.url()), folder.path()).await.expect_err("damaged");
    let HubError::Mismatch { path, what, expected, actual } = &error else { panic!("{error}") };
    assert_eq!((path.as_str(), *what), ("model.safetensors", "sha256"));
    assert_eq!(*expected, hex(&Sha256::digest(repository.weights())));
    assert_ne!(expected, actual);
    assert_eq!(files_in(folder.path()), ["1_Pooling/config.json"], "neither the file nor a part of it");
    assert_eq!(hub.seen_for("safetensors").len(), 1, "the same bytes would come again");
}

#[tokio::test]
async fn small_files_are_held_against_gits_hash() {
    let (folder, repository) = (folder(), Repository::new(1000));
    let hub = Server::start(move |request| {
        let mut answer = repository.answer(request);
        if request.target.ends_with("config.json") {
            answer.body[0] = b'[';
        }
        answer
    })
    .await;
    let error = download(client(hub.url()), folder.path()).await.expect_err("damaged");
    assert!(matches!(&error, HubError::Mismatch { what: "git blob hash", .. }), "{error}");
}

#[tokio::test]
async fn a_file_longer_or_shorter_than_listed_is_refused() {
    let longer = Repository::new(1000);
    let hub = Server::start(move |request| {
        let mut answer = longer.answer(request);
        if request.target.ends_with("safetensors") {
            answer.body.extend_from_slice(&[0; 10]);
        }
        answer
    })
    .await;
    let first = folder();
    let error = download(client(hub.url()), first.path()).await.expect_err("too long");
    assert!(matches!(&error, HubError::Mismatch { what: "size", .. }), "{error}");
    assert_eq!(files_in(first.path()), ["1_Pooling/config.json"]);

    let shorter = Repository::new(1000);
    let hub = Server::start(move |request| {
        let mut answer = shorter.answer(request);
        if request.target.ends_with("safetensors") {
            answer = Answer::new(200, &shorter.weights()[..900]);
        }
        answer
    })
    .await;
    let second = folder();
    let error = download(client(hub.url()), second.path()).await.expect_err("too short");
    assert!(matches!(&error, HubError::Short { expected: 1000, actual: 900, .. }), "{error}");
    assert_eq!(hub.seen_for("safetensors").len(), 3, "the first and two retries");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (status, token, needle) in [
        (401, None, "set HF_TOKEN"),
        (401, Some("hf_old"), "HF_TOKEN is valid"),
        (403, Some("hf_x"), "accept the model's terms"),
        (404, None, "check the model's name"),
    ] {
        let hub =
            Server::start(move |_| Answer::new(status, r#"{"error":"Access to model org/name is restricted"}"#)).await;
        let mut client = client(hub.url());
        if let Some(token) = token {
            client = client.token(token);
        }
        let target = folder();
        let error = download(client, target.path()).await.expect_err("refused");
        let (text, hint) = (error.to_string(), error.hint().unwrap_or_default());
        assert!(text.contains("Access to model org/name is restricted"), "{text}");
        assert!(hint.contains(needle), "{status}: {hint}");
        assert!(!text.contains("blobs=true"), "URLs are shown without their query: {text}");
        assert!(token.is_none_or(|token| !format!("{error:?} {hint}").contains(token)));
        assert_eq!(hub.seen().len(), 1, "a refusal is not asked for twice");
        if status == 403 {
            assert!(hint.contains(&format!("{}/org/name,", hub.url())), "{hint}");
        }
    }
}

#[tokio::test]
async fn a_hub_in_trouble_is_asked_again_but_not_forever() {
    let requests = Arc::new(AtomicUsize::new(0));
    let repository = Repository::new(1000);
    let hub = Server::start({
        let requests = Arc::clone(&requests);
        move |request| match requests.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Answer::new(503, "down for a moment").with("retry-after", "0"),
            _ => repository.answer(request),
        }
    })
    .await;
    let target = folder();
    download(client(hub.url()), target.path()).await.expect("every second request works");

    let hub = Server::start(|_| Answer::new(500, "<html>")).await;
    let error = download(client(hub.url()), target.path()).await.expect_err("never works");
    assert!(matches!(error, HubError::Status { status: 500, .. }), "{error}");
    assert_eq!(hub.seen().len(), 3, "two retries");

    let gone = { Server::start(|_| Answer::new(200, "")).await.url() };
    let error = download(client(gone), target.path()).await.expect_err("nobody listens");
    assert!(matches!(error, HubError::Network { attempts: 3, .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_not_sent_where_a_hub_redirects_to() {
    let (folder, repository) = (folder(), Repository::new(2 * MIB));
    let cut = Arc::new(AtomicUsize::new(0));
    let elsewhere = Server::start({
        let (repository, cut) = (repository.clone(), Arc::clone(&cut));
        move |request| {
            let answer = Answer::file(request, repository.weights());
            if cut.fetch_add(1, Ordering::SeqCst) == 0 { answer.cut(MIB, Ending::Close) } else { answer }
        }
    })
    .await;
    let hub = Server::start({
        let (repository, elsewhere) = (repository.clone(), elsewhere.url());
        move |request| match request.target.ends_with("safetensors") {
            true => Answer::new(302, "").with("location", format!("{elsewhere}/blob?Signature=secret")),
            false => repository.answer(request),
        }
    })
    .await;
    download(client(hub.url()).token("hf_secret"), folder.path()).await.expect("downloads");
    assert_whole(folder.path(), &repository);
    let there = elsewhere.seen();
    assert_eq!(there.iter().map(Request::from).collect::<Vec<_>>(), [None, Some(MIB)], "ranges survive redirects");
    assert!(there.iter().all(|request| request.header("authorization").is_none()));
    assert!(hub.seen().iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
}

#[tokio::test]
async fn signatures_in_redirects_are_not_shown() {
    let elsewhere = Server::start(|_| Answer::new(403, "expired")).await;
    let hub = Server::start({
        let (repository, elsewhere) = (Repository::new(10), elsewhere.url());
        move |request| match request.target.contains("resolve") {
            true => Answer::new(302, "").with("location", format!("{elsewhere}/blob?Signature=secret")),
            false => repository.answer(request),
        }
    })
    .await;
    let target = folder();
    let error = download(client(hub.url()), target.path()).await.expect_err("expired");
    assert!(matches!(error, HubError::Status { status: 403, .. }), "not the model's own refusal: {error}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn paths_that_lead_out_of_the_folder_download_nothing() {
    let mut repository = Repository::new(10);
    repository.files.push(("../outside.json", b"{}".to_vec()));
    let hub = Server::start(move |request| repository.answer(request)).await;
    let target = folder();
    let inner = target.path().join("model");
    let error = download(client(hub.url()), &inner).await.expect_err("unsafe");
    assert!(matches!(&error, HubError::UnsafePath { path, .. } if path == "../outside.json"), "{error}");
    assert_eq!(hub.seen().len(), 1);
    assert_eq!(files_in(target.path()), Vec::<String>::new());
}

#[tokio::test]
async fn two_downloads_into_one_folder_do_not_mix() {
    let (folder, repository) = (folder(), Repository::new(1000));
    let sha256 = hex(&Sha256::digest(repository.weights()));
    let part = folder.path().join(format!(".model.safetensors.{}.part", &sha256[..16]));
    let held = fs::File::create(&part).expect("created");
    held.lock().expect("locked");
    let hub = Server::start({
        let repository = repository.clone();
        move |request| repository.answer(request)
    })
    .await;
    let error = download(client(hub.url()), folder.path()).await.expect_err("another is at work");
    assert!(matches!(&error, HubError::Busy { path } if *path == part), "{error}");
    drop(held);
    download(client(hub.url()), folder.path()).await.expect("the other is done");
    assert_whole(folder.path(), &repository);
}

#[test]
fn settings_that_cannot_work_are_refused_without_repeating_secrets() {
    for endpoint in ["", "huggingface.co", "ftp://hub", "mailto:x"] {
        assert!(matches!(client(endpoint).build(), Err(HubError::BadSetting { .. })), "{endpoint}");
    }
    let error = client("http://hub").token("hf_secret\n").build().expect_err("no header can hold it");
    assert!(!format!("{error} {error:?}").contains("hf_secret"));
    let client = client("http://user:word@hub").token("hf_secret").build().expect("a client");
    assert!(!format!("{client:?}").contains("word") && !format!("{client:?}").contains("hf_secret"));
}
