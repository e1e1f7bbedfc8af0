//! Inputs that arrive one by one, read on a thread of their own and taken in groups, so that memory does not grow with them:
//! whoever writes is held up until the groups before have been dealt with.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::context::Context;

/// Groups under way at once: one computes while the next is read and the last is printed.
const GROUPS: usize = 2;
/// Lines of a group at most, and their bytes.
const GROUP_LINES: usize = 256;
const GROUP_BYTES: usize = 1 << 20;
/// A longer line is no text for an encoder of sentences.
const LINE_BYTES: u64 = 1 << 20;
/// Files of a group at most.
const GROUP_FILES: usize = 16;

/// Inputs on their way.
pub(crate) struct Arriving<T> {
    arriving: mpsc::Receiver<T>,
    /// How much memory one takes, in units of `limit`.
    weight: fn(&T) -> usize,
    /// How many go into a group at most, and how much they may weigh before it counts as full.
    limit: (usize, usize),
}

impl<T> Arriving<T> {
    /// Those that are there, at least one; `None` at the end.
    pub(crate) async fn group(&mut self) -> Option<Vec<T>> {
        let mut weight = 0;
        let mut group = Vec::new();
        let mut next = Some(self.arriving.recv().await?);
        while let Some(one) = next {
            weight += (self.weight)(&one);
            group.push(one);
            let full = group.len() >= self.limit.0 || weight >= self.limit.1;
            next = if full { None } else { self.arriving.try_recv().ok() };
        }
        Some(group)
    }

    /// Deals with groups while they come, two at a time, and hands out the results in their order.
    pub(crate) async fn each<A, F>(
        self,
        work: impl Fn(Vec<T>) -> F,
        mut done: impl FnMut(A) -> Result<()>,
    ) -> Result<()>
    where
        F: Future<Output = Result<A>>,
    {
        let groups = futures::stream::unfold(self, |mut all| async move { Some((all.group().await?, all)) });
        let mut results = std::pin::pin!(groups.map(work).buffered(GROUPS));
        while let Some(result) = results.next().await {
            done(result?)?;
        }
        Ok(())
    }
}

/// Lines on their way from an input; after one that is no text nothing more comes.
pub(crate) type Lines = Arriving<Result<String>>;

/// The texts of a group of lines, and what ended the reading after them.
fn texts(mut group: Vec<Result<String>>) -> (Vec<String>, Option<anyhow::Error>) {
    let failure = group.pop_if(|last| last.is_err()).and_then(Result::err);
    (group.into_iter().flatten().collect(), failure)
}

/// Deals with texts in groups, two at a time, and hands out what `work` made of each in their order. What ended the reading is
/// the end, after the texts before it.
pub(crate) async fn each_text<A, F>(
    lines: Lines,
    work: impl Fn(Vec<String>) -> F,
    mut done: impl FnMut(A) -> Result<()>,
) -> Result<()>
where
    F: Future<Output = Result<A>>,
{
    let work = |group| {
        let (texts, failure) = texts(group);
        let answer = (!texts.is_empty()).then(|| work(texts));
        async move {
            let answer = match answer {
                Some(answer) => Some(answer.await?),
                None => None,
            };
            Ok((answer, failure))
        }
    };
    lines
        .each(work, |(answer, failure)| {
            answer.map_or(Ok(()), &mut done)?;
            failure.map_or(Ok(()), Err)
        })
        .await
}

/// Texts that stand in a command's arguments, all of them there at once.
pub(crate) fn given(texts: &[String]) -> Lines {
    let (sender, arriving) = mpsc::channel(texts.len().max(1));
    // There is room for each.
    texts.iter().for_each(|text| drop(sender.try_send(Ok(text.clone()))));
    Arriving { arriving, weight: weight_of, limit: (GROUP_LINES, GROUP_BYTES) }
}

fn weight_of(line: &Result<String>) -> usize {
    line.as_ref().map_or(0, String::len)
}

/// The lines of standard input.
pub(crate) fn standard_input() -> Lines {
    lines(std::io::stdin(), "standard input".to_owned())
}

/// The lines of a file; `-` is standard input.
///
/// # Errors
///
/// A file that cannot be opened.
pub(crate) fn lines_of(path: &Path) -> Result<Lines> {
    if path == Path::new("-") {
        return Ok(standard_input());
    }
    let name = path.display().to_string();
    Ok(lines(File::open(path).with_context(|| format!("cannot open {name}"))?, name))
}

fn lines(input: impl Read + Send + 'static, name: String) -> Lines {
    reading(GROUP_LINES, weight_of, (GROUP_LINES, GROUP_BYTES), move |send| {
        let mut input = std::io::BufReader::new(input);
        for number in 1u64.. {
            let line = match line(&mut input, number, &name) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let last = line.is_err();
            if send(line).is_err() || last {
                return;
            }
        }
    })
}

fn line(input: &mut impl BufRead, number: u64, name: &str) -> Result<Option<String>> {
    let mut line = Vec::new();
    // One byte more tells a line of just the limit from a longer one.
    let read =
        input.take(LINE_BYTES + 1).read_until(b'\n', &mut line).with_context(|| format!("cannot read {name}"))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 > LINE_BYTES {
        return Err(anyhow!("line {number} of {name} is longer than {LINE_BYTES} bytes"));
    }
    let text = String::from_utf8(line);
    Ok(Some(text.map_err(|_| anyhow!("line {number} of {name} is not UTF-8"))?))
}

/// Reads on a thread of its own: inputs block, and a runtime's thread that blocks could not be ended. The thread ends with
/// the input, or with what it sends first after the receiver is gone, or with the process.
fn reading<T: Send + 'static>(
    ahead: usize,
    weight: fn(&T) -> usize,
    limit: (usize, usize),
    read: impl FnOnce(&dyn Fn(T) -> Result<(), ()>) + Send + 'static,
) -> Arriving<T> {
    let (sender, arriving) = mpsc::channel(ahead);
    std::thread::spawn(move || read(&|one| sender.blocking_send(one).map_err(|_| ())));
    Arriving { arriving, weight, limit }
}

/// A file, and what it holds or why it could not be read.
pub(crate) type Decoded<T> = (PathBuf, Result<T>);

/// What a kind of file is read as.
pub(crate) struct Decoding<T> {
    /// The largest file, in bytes.
    pub(crate) most: usize,
    /// What its bytes are.
    pub(crate) decode: fn(&[u8]) -> Result<T>,
    /// The memory that it takes then.
    pub(crate) weight: fn(&Decoded<T>) -> usize,
    /// The memory that a group may take before it counts as full.
    pub(crate) together: usize,
}

/// Files on their way, decoded one ahead of those that are taken.
pub(crate) fn files<T: Send + 'static>(paths: &[PathBuf], decoding: &Decoding<T>) -> Arriving<Decoded<T>> {
    let (paths, most, decode) = (paths.to_vec(), decoding.most, decoding.decode);
    reading(1, decoding.weight, (GROUP_FILES, decoding.together), move |send| {
        let read = |path: &Path| decode(&bytes_of(path, most)?);
        let _ = paths.into_iter().try_for_each(|path| {
            let read = read(&path);
            send((path, read))
        });
    })
}

/// A file's bytes; one byte more than `most` is left for whoever decodes them to refuse.
fn bytes_of(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Deals with files: `work` on those of each group that could be read, two groups at a time, and `show` puts into words what
/// it gave, which is printed in their order. Of the others each is told by name; they make the end a failure, but keep none
/// of the rest from being dealt with.
pub(crate) async fn each_file<T, A, F>(
    context: &Context,
    paths: &[PathBuf],
    decoding: &Decoding<T>,
    work: impl Fn(Vec<T>) -> F,
    mut show: impl FnMut(&[String], A) -> Result<String>,
) -> Result<()>
where
    T: Send + 'static,
    F: Future<Output = Result<A>>,
{
    let Context { terminal, bars, .. } = context;
    let (total, mut done, mut bad) = (paths.len(), 0, Vec::new());
    let bar = (total > 1).then(|| bars.spinner(format!("0 of {total} files")));
    let work = |group: Vec<Decoded<T>>| {
        let (mut names, mut items, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for (path, read) in group {
            match read {
                Ok(item) => {
                    names.push(path.display().to_string());
                    items.push(item);
                }
                Err(error) => failures.push(error.context(format!("cannot read {}", path.display()))),
            }
        }
        let answer = (!items.is_empty()).then(|| work(items));
        async move {
            let answer = match answer {
                Some(answer) => Some(answer.await?),
                None => None,
            };
            Ok((names, answer, failures))
        }
    };
    let dealt = files(paths, decoding).each(work, |(names, answer, failures): (Vec<String>, Option<A>, Vec<_>)| {
        done += names.len() + failures.len();
        if let Some(answer) = answer {
            let text = show(&names, answer)?;
            bars.aside(|| terminal.print(&text))?;
        }
        for error in &failures {
            // The only file's error is the program's own.
            if total > 1 {
                bars.aside(|| terminal.warn(&format!("{error:#}")));
            }
        }
        bad.extend(failures);
        if let Some(bar) = &bar {
            bar.say(format!("{done} of {total} files"));
        }
        Ok(())
    });
    dealt.await?;
    match (bad.len(), total) {
        (0, _) => Ok(()),
        (_, 1) => Err(bad.swap_remove(0)),
        (bad, total) => Err(anyhow!("{bad} of {total} files could not be read")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::bail;

    use super::{Decoding, GROUP_LINES, LINE_BYTES, files, lines, texts};

    async fn all(input: &'static [u8]) -> Vec<(Vec<String>, Option<String>)> {
        let mut lines = lines(input, "it".to_owned());
        let mut groups = Vec::new();
        while let Some(group) = lines.group().await {
            let (texts, failure) = texts(group);
            groups.push((texts, failure.map(|error| error.to_string())));
        }
        groups
    }

    #[tokio::test]
    async fn each_line_is_a_text_whatever_ends_it() {
        let groups = all(b"one\r\n\ntwo\xc3\xa9\nlast").await;
        assert!(groups.iter().all(|(_, failure)| failure.is_none()));
        let lines: Vec<String> = groups.into_iter().flat_map(|(texts, _)| texts).collect();
        assert_eq!(lines, ["one", "", "two\u{e9}", "last"]);
        assert!(all(b"").await.is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_no_text_ends_the_reading_after_those_before_it() {
        let groups = all(b"good\nbad\xff\nnever read\n").await;
        let failures: Vec<_> = groups.iter().filter_map(|(_, failure)| failure.as_deref()).collect();
        assert_eq!(failures, ["line 2 of it is not UTF-8"]);
        assert!(groups.last().is_some_and(|(_, failure)| failure.is_some()));
        assert_eq!(groups.iter().flat_map(|(texts, _)| texts).collect::<Vec<_>>(), ["good"]);
    }

    #[tokio::test]
    async fn groups_and_lines_are_bounded() {
        let many: &'static [u8] = Box::leak(b"x\n".repeat(3 * GROUP_LINES).into_boxed_slice());
        let groups = all(many).await;
        assert!(groups.iter().all(|(texts, _)| texts.len() <= GROUP_LINES));
        assert_eq!(groups.iter().map(|(texts, _)| texts.len()).sum::<usize>(), 3 * GROUP_LINES);
        let long: &'static [u8] = Box::leak(vec![b'x'; LINE_BYTES as usize + 1].into_boxed_slice());
        assert!(all(long).await[0].1.as_ref().is_some_and(|error| error.contains("line 1")));
        assert!(all(&long[1..]).await[0].1.is_none(), "just the limit");
    }

    #[tokio::test]
    async fn a_bad_file_does_not_keep_the_others_and_heavy_ones_go_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths: Vec<PathBuf> = ["a", "b", "c", "d"].map(|name| folder.path().join(name)).to_vec();
        for path in paths.iter().filter(|path| !path.ends_with("b")) {
            std::fs::write(path, path.file_name().expect("named").as_encoded_bytes()).expect("written");
        }
        let decode = |bytes: &[u8]| if bytes == b"c" { bail!("no picture") } else { Ok(bytes.to_vec()) };
        let decoding = Decoding { most: 1, decode, weight: |_| 1, together: 1 };
        let mut arriving = files(&paths, &decoding);
        let mut told = Vec::new();
        while let Some(group) = arriving.group().await {
            assert_eq!(group.len(), 1);
            told.extend(group.into_iter().map(|(path, read)| (path, read.is_ok())));
        }
        assert_eq!(told.iter().map(|(_, good)| *good).collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(told.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), paths);
    }
}
