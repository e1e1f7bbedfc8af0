//! Discovery against programs made for the test.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{SearchPaths, Source, discover, parse_version, version_from_files, well_known};
use crate::kind::BrowserKind;

#[cfg(unix)]
fn program(folder: &Path, name: &str, script: &str) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    // Written under another name and renamed, so that no test running beside this one holds it open for writing
    // while it is started.
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::rename(&draft, &path)?;
    Ok(path)
}

#[test]
#[cfg(unix)]
fn tells_the_usable_from_the_hanging_the_failing_and_the_strange() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    program(folder.path(), "chromium", "echo noise >&2; echo Chromium 156.0.8078.79 built on Debian")?;
    program(folder.path(), "google-chrome", "sleep 60 & sleep 60")?;
    program(folder.path(), "microsoft-edge", "echo no display; exit 3")?;
    program(folder.path(), "firefox", "echo Mozilla Firefox 153.7.0esr")?;
    program(folder.path(), "firefox-esr", "echo hello there")?;
    fs::write(folder.path().join("chrome"), "not executable")?;

    let begun = Instant::now();
    let found = discover(&SearchPaths::none().folder(folder.path()).version_limit(Duration::from_millis(1500)));

    assert!(begun.elapsed() < Duration::from_secs(10), "the hanging program was waited for");
    let installed: Vec<_> = found.installed.iter().map(|found| (found.kind, found.version.as_str())).collect();
    assert_eq!(installed, [(BrowserKind::Chromium, "156.0.8078.79"), (BrowserKind::Firefox, "153.7.0esr")]);
    assert_eq!(found.installed[0].source, Source::SearchPath);
    assert_eq!(found.installed[0].major_version(), Some(156));
    let reasons: Vec<_> = found.unusable.iter().map(|unusable| unusable.reason.as_str()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons[0].contains("no answer within 1.5 s"), "{reasons:?}");
    assert!(reasons[1].contains("does not start"), "{reasons:?}");
    assert!(reasons[2].contains("failed with exit status: 3"), "{reasons:?}");
    assert!(reasons[3].contains("\"hello there\", which holds no version"), "{reasons:?}");
    Ok(())
}

#[test]
#[cfg(unix)]
fn an_override_comes_first_and_is_reported_when_it_does_not_exist() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    program(folder.path(), "firefox", "echo Mozilla Firefox 150.0")?;
    let own = program(folder.path(), "my-fox", "echo Mozilla Firefox 155.0")?;
    let missing = folder.path().join("none");
    let paths = SearchPaths::none()
        .folder(folder.path())
        .program(BrowserKind::Firefox, &own)
        .program(BrowserKind::Chromium, &missing);

    let found = discover(&paths);

    let firefox = found.of_kind(BrowserKind::Firefox).ok_or("no firefox")?;
    assert_eq!((firefox.path.as_path(), firefox.source), (own.as_path(), Source::Override));
    assert_eq!(found.installed.len(), 2);
    assert_eq!(found.unusable[0].path, missing);
    assert_eq!(found.unusable[0].reason, "there is no such file");
    Ok(())
}

#[test]
#[cfg(unix)]
fn the_shell_finds_the_libraries_packed_with_it_before_others() -> Result<(), Box<dyn Error>> {
    let script = "case \"$LD_LIBRARY_PATH\" in \"${0%/*}/lib\"*) echo Chromium 153.0.8010.0 ;; *) exit 7 ;; esac";
    let (with, without) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::create_dir(with.path().join("lib"))?;
    for folder in [&with, &without] {
        program(folder.path(), "webnn-shell", script)?;
    }

    let found = discover(&SearchPaths::none().folder(with.path()).folder(without.path()));

    let shell = found.of_kind(BrowserKind::WebNnShell).ok_or_else(|| format!("no shell: {:?}", found.unusable))?;
    assert_eq!(shell.path, with.path().join("webnn-shell"));
    let reasons: Vec<_> = found.unusable.iter().map(|unusable| unusable.reason.as_str()).collect();
    assert_eq!(reasons, ["`--version` failed with exit status: 7"]);
    Ok(())
}

#[test]
#[cfg(unix)]
fn links_and_wrappers_of_one_browser_are_its_aliases() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let real = program(folder.path(), "firefox-esr", "echo Mozilla Firefox 153.7.0esr")?;
    program(folder.path(), "firefox", &format!("exec {} \"$@\"", real.display()))?;
    let linked = tempfile::tempdir()?;
    std::os::unix::fs::symlink(&real, linked.path().join("firefox-esr"))?;

    let found = discover(&SearchPaths::none().folder(folder.path()).folder(linked.path()));

    assert_eq!(found.installed.len(), 1, "{found:?}");
    assert_eq!(found.installed[0].path, folder.path().join("firefox"));
    assert_eq!(found.installed[0].aliases, [real, linked.path().join("firefox-esr")]);
    Ok(())
}

#[test]
fn a_browser_of_another_engine_is_refused() {
    let refused = parse_version(BrowserKind::Chromium, "Mozilla Firefox 153.0\n").expect_err("it is no Chromium");
    assert!(refused.contains("which is not chromium"), "{refused}");
    assert!(parse_version(BrowserKind::Firefox, "Google Chrome 150.0.1.2").is_err());
}

#[test]
fn versions_are_found_in_the_lines_browsers_print() {
    let parse = |kind, text| parse_version(kind, text).expect("a version is there");
    assert_eq!(parse(BrowserKind::Chrome, "\nGoogle Chrome for Testing 147.0.7000.1 \n"), "147.0.7000.1");
    assert_eq!(parse(BrowserKind::Edge, "Microsoft Edge 150.0.3000.9 beta"), "150.0.3000.9");
    assert_eq!(parse(BrowserKind::Firefox, "Mozilla Firefox 154.0a1"), "154.0a1");
    assert!(parse_version(BrowserKind::Chromium, "").is_err());
    assert!(parse_version(BrowserKind::Chromium, "Chromium 156").is_err());
}

#[test]
fn windows_installations_tell_their_version_by_files() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for name in ["99.0.1.2", "150.0.3.4", "Dictionaries"] {
        fs::create_dir(folder.path().join(name))?;
    }
    fs::write(folder.path().join("application.ini"), "[App]\nName=Firefox\nVersion=153.0\n")?;
    let ask = |kind, name: &str| version_from_files(kind, &folder.path().join(name));
    assert_eq!(ask(BrowserKind::Chrome, "chrome.exe").as_deref(), Ok("150.0.3.4"));
    assert_eq!(ask(BrowserKind::Firefox, "firefox.exe").as_deref(), Ok("153.0"));
    assert!(version_from_files(BrowserKind::Edge, Path::new("/nowhere/msedge.exe")).is_err());
    Ok(())
}

#[test]
fn every_platform_has_its_places() {
    let variable = |name: &str| Some(PathBuf::from(format!("/{name}")));
    let places = |system| well_known(system, &variable).into_iter().map(|(_, path)| path).collect::<Vec<_>>();
    assert!(places("macos").contains(&PathBuf::from("/HOME/Applications/Firefox.app/Contents/MacOS/firefox")));
    assert!(places("windows").contains(&PathBuf::from("/ProgramFiles/Mozilla Firefox/firefox.exe")));
    assert!(places("linux").contains(&PathBuf::from("/opt/google/chrome/chrome")));
}
