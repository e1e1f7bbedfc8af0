//! Fetching a model's files: what is there already is kept, what was cut off goes on, what arrives is held against its
//! hash.

use std::path::{Path, PathBuf};

use reqwest::{StatusCode, Url, header};

use crate::client::HubClient;
use crate::digest::Expected;
use crate::error::HubError;
use crate::listing::{Listing, RemoteFile};
use crate::model::HubModel;
use crate::part::{Part, is_whole};

/// How often one file may be asked for, however much arrives each time.
const MAX_REQUESTS: u32 = 1000;

/// How far a download has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file being fetched, by its path inside the folder.
    pub file: &'a str,
    /// Bytes of it that are here. Falls back when a server cannot go on where it stopped.
    pub file_done: u64,
    /// Its size, where the hub said it.
    pub file_bytes: Option<u64>,
    /// Bytes of all files that are here.
    pub done: u64,
    /// The size of all files, as far as the hub said it.
    pub total: u64,
}

/// What a download did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// The commit that the files are of.
    pub commit: String,
    /// How many files the folder has from the hub.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// How much of that came over the network this time.
    pub bytes_fetched: u64,
}

impl HubClient {
    /// Downloads a model into a folder, making it where needed. Files of other names in it are left alone.
    ///
    /// Files that are there and whole are not fetched again. While it arrives, a file is called
    /// `.<name>.<hash>.part`. Cancel safe: when the future is dropped, such parts stay, and the next call goes on with
    /// them.
    ///
    /// # Errors
    ///
    /// See [`HubError`]. A file that arrives damaged is removed; all else that has arrived is kept.
    pub async fn download(
        &self,
        model: &HubModel,
        folder: &Path,
        progress: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<Downloaded, HubError> {
        let listing = self.files(model).await?;
        let total = listing.files.iter().filter_map(|file| file.size).sum();
        let mut downloaded =
            Downloaded { commit: listing.commit.clone(), files: listing.files.len(), bytes: 0, bytes_fetched: 0 };
        for file in &listing.files {
            let before = downloaded.bytes;
            let mut report = |file_done| {
                let (path, done) = (file.path.as_str(), before + file_done);
                progress(Progress { file: path, file_done, file_bytes: file.size, done, total });
            };
            let target = place(folder, &file.path);
            let (len, fetched) = if is_whole(&target, file.expected(), file.size).await? {
                let len = file.size.unwrap_or_default();
                report(len);
                (len, 0)
            } else {
                self.fetch(model, &listing, file, target, &mut report).await?
            };
            downloaded.bytes += len;
            downloaded.bytes_fetched += fetched;
        }
        Ok(downloaded)
    }

    /// Fetches one file, over as many requests as it takes; its length, and how much of it came this time.
    async fn fetch(
        &self,
        model: &HubModel,
        listing: &Listing,
        file: &RemoteFile,
        target: PathBuf,
        report: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(u64, u64), HubError> {
        let url = self.file_url(model, &listing.commit, &file.path);
        let mut part = Part::open(part_path(&target, listing, file), file.expected(), file.size).await?;
        report(part.len());
        let (mut fetched, mut requests, mut failures) = (0, 0, 0);
        // Without a known size only the server can tell that a part is whole.
        while file.size != Some(part.len()) {
            let before = part.len();
            requests += 1;
            let result = self.stream(&url, file, &mut part, &mut fetched, report).await;
            part.flush().await?;
            let error = match result {
                Ok(()) => break,
                Err(error) => error,
            };
            if matches!(error, HubError::Mismatch { .. }) {
                part.discard().await?;
                return Err(error);
            }
            // What counts is failing without getting anywhere.
            failures = if part.len() > before { 1 } else { failures + 1 };
            if !error.is_transient() || failures > self.retries() || requests >= MAX_REQUESTS {
                return Err(error.after(requests));
            }
            self.pause(&error, failures).await;
        }
        let len = part.len();
        part.finish(&file.path, target).await?;
        Ok((len, fetched))
    }

    /// One request for what is missing of a file. `Ok` when the file is whole.
    async fn stream(
        &self,
        url: &Url,
        file: &RemoteFile,
        part: &mut Part,
        fetched: &mut u64,
        report: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), HubError> {
        let mut response = self.get(url, part.len()).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let whole = content_range(&response).is_some_and(|(_, total)| total == Some(part.len()));
            if whole && file.size.is_none() {
                return Ok(());
            }
            part.restart().await?;
            response = self.get(url, 0).await?;
        }
        match (response.status(), content_range(&response)) {
            (StatusCode::PARTIAL_CONTENT, Some((Some(from), _))) if from == part.len() => {}
            (StatusCode::PARTIAL_CONTENT, _) => {
                let reason = format!("bytes from {} on were asked for, other ones came", part.len());
                return Err(HubError::BadAnswer { url: self.plain(response.url()), reason });
            }
            // The server knows no ranges: it begins again, so do we.
            _ if part.len() > 0 => part.restart().await?,
            _ => {}
        }
        let url = self.plain(response.url());
        let broken = |source: reqwest::Error| HubError::network(&url, source);
        while let Some(bytes) = response.chunk().await.map_err(broken)? {
            let len = part.len() + bytes.len() as u64;
            if let Some(size) = file.size
                && len > size
            {
                let (expected, actual) = (size.to_string(), format!("at least {len}"));
                return Err(HubError::Mismatch { path: file.path.clone(), what: "size", expected, actual });
            }
            part.push(&bytes).await?;
            *fetched += bytes.len() as u64;
            report(part.len());
        }
        match file.size {
            Some(expected) if part.len() < expected => Err(HubError::Short { url, expected, actual: part.len() }),
            _ => Ok(()),
        }
    }
}

/// Where in the folder a file of the hub belongs. The listing has made sure that this is inside.
fn place(folder: &Path, path: &str) -> PathBuf {
    path.split('/').fold(folder.to_owned(), |folder, part| folder.join(part))
}

/// The name of a part says what it is a part of: after the hub's file changed, the old part is not gone on with.
fn part_path(target: &Path, listing: &Listing, file: &RemoteFile) -> PathBuf {
    let identity = match file.expected() {
        Expected::Sha256(hash) | Expected::GitBlob { hash, .. } => hash,
        Expected::Unknown => listing.commit.clone(),
    };
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".{name}.{identity:.16}.part"))
}

/// The first byte and the total of `Content-Range: bytes 5-9/10`, or of `bytes */10`.
fn content_range(response: &reqwest::Response) -> Option<(Option<u64>, Option<u64>)> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-').and_then(|(from, _)| from.parse().ok());
    Some((from, total.parse().ok()))
}
