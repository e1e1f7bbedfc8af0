//! Through proxies, and past them.

use super::*;

/// A host name that no resolver knows: only a proxy can reach it.
const NOWHERE: &str = "http://hub.invalid";

async fn proxy(repository: Repository) -> Server {
    Server::start(move |request| match request.target.strip_prefix(NOWHERE) {
        Some(target) => repository.answer(&request.to(target)),
        None => Answer::new(400, "not asked as a proxy"),
    })
    .await
}

#[tokio::test]
async fn a_proxy_that_is_set_is_used() {
    let (folder, repository) = (folder(), Repository::new(1000));
    let proxy = proxy(repository.clone()).await;
    download(client(NOWHERE).proxy(proxy.url()), folder.path()).await.expect("through the proxy");
    assert_whole(folder.path(), &repository);
}

#[tokio::test]
async fn the_environment_is_honoured() {
    let (folder, repository) = (folder(), Repository::new(1000));
    let proxy = proxy(repository.clone()).await;
    // A process of its own, because an environment belongs to all threads of one.
    let child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "proxies::downloads_as_its_environment_says", "--nocapture"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env_remove("http_proxy")
        .env("HTTP_PROXY", proxy.url())
        .env("HF_ENDPOINT", NOWHERE)
        .env("HF_TOKEN", " hf_from_env\n")
        .env("TABPOOL_HUB_TEST_FOLDER", folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("joins").expect("ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_whole(folder.path(), &repository);
    assert!(proxy.seen().iter().all(|request| request.header("authorization") == Some("Bearer hf_from_env")));
}

/// The other half of the test above, which runs it in a process of its own. By itself it has nothing to do.
#[tokio::test]
async fn downloads_as_its_environment_says() {
    let Some(folder) = std::env::var_os("TABPOOL_HUB_TEST_FOLDER") else { return };
    let client = HubClient::from_env().expect("a client");
    let model = HubModel::parse("hf:org/name").expect("a name");
    client.download(&model, Path::new(&folder), &mut |_| {}).await.expect("through the proxy");
}
