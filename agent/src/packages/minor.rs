//! Package repositories that are split by minor: `https://pkgs.k8s.io/core:/stable:/v1.30/deb/` and its mirrors.
//!
//! Which minor a node can have stands in its own files, in the URL. Only that one word of a file ever changes.

use std::collections::BTreeSet;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};

use crate::host::{Files, HostResult, Layout};

/// Whose repositories are all split so, whatever else is in the path.
const HOST: &str = "pkgs.k8s.io";

/// apt's own file besides those in [`FOLDERS`].
const APT_LIST: &str = "/etc/apt/sources.list";

/// Folders of apt's and dnf's files, and how the names of those end that they read.
const FOLDERS: [(&str, &[&str]); 2] =
    [("/etc/apt/sources.list.d", &["list", "sources"]), ("/etc/yum.repos.d", &["repo"])];

/// A file of a package manager's that names a repository of one minor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitFile {
    /// On this machine.
    pub path: Utf8PathBuf,
    /// As it is.
    pub content: String,
}

/// The node's files that lead to repositories of one minor each; none where all minors are in one repository.
pub async fn split_files(files: &dyn Files, layout: &Layout) -> HostResult<Vec<SplitFile>> {
    let mut paths = vec![layout.at(APT_LIST)];
    for (folder, endings) in FOLDERS {
        let folder = layout.at(folder);
        for name in files.list(&folder).await? {
            if Utf8Path::new(&name).extension().is_some_and(|ending| endings.contains(&ending)) {
                paths.push(folder.join(name));
            }
        }
    }
    let mut found = Vec::new();
    for path in paths {
        let Some(content) = files.read(&path).await? else { continue };
        // A file that is not UTF-8 holds no URL of ours.
        let Ok(content) = String::from_utf8(content) else { continue };
        if !minors(&content).is_empty() {
            found.push(SplitFile { path, content });
        }
    }
    Ok(found)
}

/// Every minor that these files lead to, such as 30 for `v1.30`.
pub fn minors_of(files: &[SplitFile]) -> BTreeSet<u16> {
    files.iter().flat_map(|file| minors(&file.content)).collect()
}

/// The files that have to change for a minor, as they will be: where none of them leads there, those that lead to the newest
/// do instead.
pub fn led_to(files: &[SplitFile], minor: u16) -> Vec<SplitFile> {
    let there = minors_of(files);
    let Some(newest) = there.last().copied().filter(|_| !there.contains(&minor)) else { return Vec::new() };
    let lead = |file: &SplitFile| {
        let content = led(&file.content, newest, minor);
        (content != file.content).then(|| SplitFile { path: file.path.clone(), content })
    };
    files.iter().filter_map(lead).collect()
}

/// The minors in the URLs of a file.
fn minors(content: &str) -> BTreeSet<u16> {
    let in_line = |(line, counts)| found(line, counts).map(|(_, minor)| minor).collect::<Vec<_>>();
    lines(content).into_iter().flat_map(in_line).collect()
}

/// The file with one minor in the place of another.
fn led(content: &str, from: u16, to: u16) -> String {
    let lead = |(line, counts): (&str, bool)| {
        let spots: Vec<Range<usize>> =
            found(line, counts).filter(|(_, minor)| *minor == from).map(|(spot, _)| spot).collect();
        let mut line = line.to_owned();
        for spot in spots.into_iter().rev() {
            line.replace_range(spot, &to.to_string());
        }
        line
    };
    lines(content).into_iter().map(lead).collect()
}

/// Each line with its end, and whether it counts: it is no comment, and nobody has switched off the section (of dnf) or the stanza
/// (of apt's `.sources`) in which it stands.
fn lines(content: &str) -> Vec<(&str, bool)> {
    let lines: Vec<&str> = content.split_inclusive('\n').collect();
    let is_section = |line: &str| line.trim().starts_with('[') && line.trim().ends_with(']');
    let has_sections = lines.iter().any(|line| is_section(line));
    let begins = |line: &str| if has_sections { is_section(line) } else { line.trim().is_empty() };
    let mut counting = Vec::new();
    for part in lines.chunk_by(|_, next| !begins(next)) {
        let is_on = !part.iter().any(|line| switches_off(line));
        counting.extend(part.iter().map(|line| (*line, is_on && !line.trim_start().starts_with('#'))));
    }
    counting
}

/// `enabled=0`, `Enabled: no`
fn switches_off(line: &str) -> bool {
    let Some((field, value)) = line.split_once([':', '=']) else { return false };
    let value = value.trim().to_ascii_lowercase();
    field.trim().eq_ignore_ascii_case("enabled")
        && ["0", "no", "false", "off", "without", "disable"].contains(&value.as_str())
}

/// Where a line that counts names a minor: the digits after `v1.`, and their number.
fn found(line: &str, counts: bool) -> impl Iterator<Item = (Range<usize>, u16)> {
    let mut at = 0;
    let words = line.split(|letter: char| letter.is_whitespace() || "=,\"'<>[]".contains(letter));
    let spans = words.map(move |word| {
        let start = at;
        at += word.len()
            + line.get(start + word.len()..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        (start, word)
    });
    let spots = spans.filter(move |_| counts);
    spots.filter_map(|(start, word)| {
        let (digits, minor) = in_url(word)?;
        Some((start + digits.start..start + digits.end, minor))
    })
}

/// The digits of the minor in a URL, if it is one of a repository that is split by minor.
fn in_url(word: &str) -> Option<(Range<usize>, u16)> {
    let (scheme, rest) = word.split_once("://")?;
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit('@').next().and_then(|host| host.split(':').next())?;
    let mut at = scheme.len() + "://".len() + authority.len() + 1;
    let (mut before, mut last) = ("", "");
    for part in path.split('/') {
        // Some mirrors leave the colons out.
        let is_stream = before.trim_end_matches(':') == "core" && last.trim_end_matches(':') == "stable";
        if let Some(digits) = part.strip_prefix("v1.")
            && (is_stream || host == HOST)
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(minor) = digits.parse()
        {
            let start = at + "v1.".len();
            return Some((start..start + digits.len(), minor));
        }
        at += part.len() + 1;
        (before, last) = (last, part);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "# https://pkgs.k8s.io/core:/stable:/v1.28/deb/ was before\n\
        deb [signed-by=/etc/apt/keyrings/kubernetes-apt-keyring.gpg] https://pkgs.k8s.io/core:/stable:/v1.30/deb/ /\n\
        deb http://mirror.example/debian bookworm main\n";
    const SOURCES: &str =
        "Types: deb\nURIs: https://mirror.example/k8s/core:/stable:/v1.30/deb/\nSuites: /\n";
    const REPO: &str = "[kubernetes]\nname=Kubernetes\nbaseurl=https://pkgs.k8s.io/core:/stable:/v1.30/rpm/\n\
        gpgkey=https://pkgs.k8s.io/core:/stable:/v1.30/rpm/repodata/repomd.xml.key\nexclude=kubelet kubeadm kubectl\n";

    fn file(name: &str, content: &str) -> SplitFile {
        SplitFile { path: name.into(), content: content.to_owned() }
    }

    #[test]
    fn of_a_file_only_the_minor_in_its_urls_changes_and_no_comment_does() {
        for content in [LIST, SOURCES, REPO] {
            let led = led_to(&[file("k", content)], 31);
            let lines = content.lines().zip(led[0].content.lines());
            for (before, after) in lines {
                let expected = if before.starts_with('#') {
                    before.to_owned()
                } else {
                    before.replace("v1.30", "v1.31")
                };
                assert_eq!(after, expected);
            }
            assert_eq!(led_to(&led, 30), [file("k", content)], "and back");
        }
    }

    #[test]
    fn where_a_minor_is_there_already_nothing_is_led_and_of_several_the_newest_is() {
        let files = [file("a", SOURCES), file("b", &SOURCES.replace("v1.30", "v1.29"))];
        assert_eq!(led_to(&files, 29), []);
        assert_eq!(led_to(&files, 30), []);
        assert_eq!(led_to(&files, 31), [file("a", &SOURCES.replace("v1.30", "v1.31"))]);
        assert_eq!(minors_of(&files).into_iter().collect::<Vec<_>>(), [29, 30]);
        assert_eq!(led_to(&[], 31), []);
    }

    #[test]
    fn a_repository_that_somebody_switched_off_leads_nowhere_and_stays_as_it_is() {
        let off = SOURCES.replace("v1.30", "v1.31") + "Enabled: no\n";
        let files = [file("a", &format!("{SOURCES}\n{off}"))];
        assert_eq!(minors_of(&files).into_iter().collect::<Vec<_>>(), [30]);
        assert_eq!(led_to(&files, 31), [file("a", &format!("{}\n{off}", SOURCES.replace("v1.30", "v1.31")))]);
        let off = REPO.replace("v1.30", "v1.31").replace("[kubernetes]", "[next]") + "\nenabled = 0\n";
        for content in [format!("{REPO}{off}"), format!("{off}{REPO}enabled=1\n")] {
            let files = [file("k.repo", &content)];
            assert_eq!(minors_of(&files).into_iter().collect::<Vec<_>>(), [30], "{content}");
            assert_eq!(led_to(&files, 31)[0].content.matches("v1.30").count(), 0);
        }
    }

    #[test]
    fn mirrors_count_by_their_path_and_pkgs_k8s_io_by_its_name() {
        for url in [
            "https://pkgs.k8s.io/isv:/kubernetes:/core:/stable:/v1.30/deb/",
            "https://pkgs.k8s.io/anything/v1.30/deb/",
            "https://user:word@mirror.example:8443/x/core:/stable:/v1.30/rpm/",
            "http://mirror.example/kubernetes-new/core/stable/v1.30/deb/",
            "file:///srv/core:/stable:/v1.30/deb",
        ] {
            let (spot, minor) = in_url(url).unwrap();
            assert_eq!((&url[spot], minor), ("30", 30), "{url}");
        }
        for url in [
            "https://apt.kubernetes.io/",
            "https://mirror.example/v1.30/deb/",
            "https://mirror.example/core:/stable:/v1.30-rc/deb/",
            "https://mirror.example/core:/stable:/v1./deb/",
            "https://mirror.example/core:/stable:/v1.99999/deb/",
            "https://pkgs.k8s.io.evil.example/x/v1.30/",
            "pkgs.k8s.io/core:/stable:/v1.30/",
            "",
        ] {
            assert_eq!(in_url(url), None, "{url}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_file_leading_it_there_and_back_changes_nothing(
            lines in proptest::collection::vec(
                prop_oneof!["[ -~é]{0,60}", "(deb |URIs: |baseurl=)https://pkgs.k8s.io/core:/stable:/v1.30/(deb|rpm)/ ?/?[ -~]{0,10}"],
                0..8,
            ),
            end in prop_oneof!["", "\n", "\r\n"],
        ) {
            let content = lines.join("\n") + &end;
            let files = [file("k", &content)];
            let before = minors_of(&files);
            if before.len() == 1 && before.contains(&30) {
                let there = led_to(&files, 31);
                prop_assert_eq!(minors_of(&there).into_iter().collect::<Vec<_>>(), [31]);
                prop_assert_eq!(led_to(&there, 30), files);
            }
        }
    }
}
