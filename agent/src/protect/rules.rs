//! Which paths are protected: the default list, `/etc/jelastic/redeploy.conf`, and over them
//! `/etc/liftlock/protect.d/*.conf`.
//!
//! ```text
//! # one absolute path a line; sealed if nothing else is said
//! /srv/shop/settings
//! live /srv/shop/spool
//! except /root/.terraform.d
//! ```

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::class::{Class, DEFAULTS, KUBERNETES};
use crate::host::trees::Name;
use crate::host::{Bounds, Files, Host, HostError, HostResult, Layout, Limits};

/// Where operators say what else is protected.
pub const FOLDER: &str = "/etc/liftlock/protect.d";
/// Where Jelastic's add-on let them say it: one path a line.
pub const REDEPLOY: &str = "/etc/jelastic/redeploy.conf";

/// What packages of Kubernetes own files in: those of `/etc/default` and `/etc/sysconfig` are their configuration
/// files, which dpkg renames into place, and the network plugins' package had files in `/etc/cni` once.
const OF_PACKAGES: [&str; 3] = ["/etc/cni", "/etc/default", "/etc/sysconfig"];

/// One protected path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Absolute, as on a real node.
    pub path: Utf8PathBuf,
    /// What must hold of it.
    pub class: Class,
    /// Who says so: `/etc/liftlock/protect.d/shop.conf:3`, `the default list`.
    pub source: String,
}

/// All protected paths, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// A line that names no path to protect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_line}: {why}")]
pub struct RuleError {
    source_line: String,
    why: String,
}

/// Which program's children are kept from writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// It has no business in any sealed path.
    Kubeadm,
    /// It may bring files of its own to some of them.
    PackageManager,
}

impl Rules {
    /// As the node is configured now.
    pub async fn load(host: &Host) -> HostResult<Self> {
        Self::load_from(host.files.as_ref(), &host.layout).await
    }

    /// The same, for those who have no host.
    pub async fn load_from(node: &dyn Files, layout: &Layout) -> HostResult<Self> {
        let mut files = Vec::new();
        let folder = layout.at(FOLDER);
        for name in node.list(&folder).await? {
            let is_hidden = name.starts_with('.');
            if !is_hidden && Utf8Path::new(&name).extension() == Some("conf") {
                let content = node.read(&folder.join(&name)).await?.unwrap_or_default();
                files.push((format!("{FOLDER}/{name}"), content));
            }
        }
        let redeploy = node.read(&layout.at(REDEPLOY)).await?;
        let state_dir = layout.on_node(&layout.state_dir);
        Self::read(&state_dir, redeploy.as_deref(), &files).map_err(|error| HostError::Malformed {
            what: "the list of protected paths".to_owned(),
            why: format!("{error}; mend that line, then go on"),
        })
    }

    /// The default list, what the files say, and what is Liftlock's own.
    pub fn read(
        state_dir: &Utf8Path,
        redeploy: Option<&[u8]>,
        files: &[(String, Vec<u8>)],
    ) -> Result<Self, RuleError> {
        let by_default = |(path, class): (&str, Class)| Rule {
            path: path.into(),
            class,
            source: "the default list".to_owned(),
        };
        let mut rules: Vec<Rule> = DEFAULTS.into_iter().map(by_default).collect();
        let ours = Rule { source: "Liftlock".to_owned(), ..by_default((state_dir.as_str(), Class::Except)) };
        let tmp = Utf8Path::new(KUBERNETES).join("tmp");
        rules.push(ours);
        for rule in redeploy.map_or(Ok(Vec::new()), |content| parse(REDEPLOY, content))? {
            // It knows no classes, so the default list's stay.
            if !rules.iter().any(|there| there.path == rule.path) {
                rules.push(rule);
            }
        }
        let mut said: Vec<Rule> = Vec::new();
        for (file, content) in files {
            for rule in parse(file, content)? {
                let refuse = |why: String| Err(RuleError { source_line: rule.source.clone(), why });
                if rule.class != Class::Except
                    && [state_dir, &tmp].into_iter().any(|ours| rule.path.starts_with(ours))
                {
                    return refuse(format!(
                        "{} cannot be protected: Liftlock writes there itself",
                        rule.path
                    ));
                }
                match said.iter().find(|there| there.path == rule.path) {
                    Some(there) if there.class != rule.class => {
                        return refuse(format!(
                            "{} is {} already, by {}",
                            rule.path, there.class, there.source
                        ));
                    }
                    Some(_) => {}
                    None => said.push(rule),
                }
            }
        }
        rules.retain(|rule| !said.iter().any(|over| over.path == rule.path));
        rules.append(&mut said);
        rules.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self(rules))
    }

    /// Every rule, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The class of exactly this path.
    pub fn class_of(&self, path: &Utf8Path) -> Option<Class> {
        self.0.iter().find(|rule| rule.path == path).map(|rule| rule.class)
    }

    /// What lies below a path and has a rule of its own, relative to it.
    pub fn below(&self, path: &Utf8Path) -> Vec<Name> {
        let below = self.0.iter().filter_map(|rule| rule.path.strip_prefix(path).ok());
        below.filter(|rest| !rest.as_str().is_empty()).map(|rest| rest.as_str().into()).collect()
    }

    /// What keeps a program's children from writing sealed paths.
    pub fn bounds(&self, program: Program, layout: &Layout, limits: Limits) -> Bounds {
        let may_bring_files = |path: &Utf8Path| OF_PACKAGES.iter().any(|folder| path.starts_with(folder));
        let is_shut = |rule: &&Rule| {
            rule.class == Class::Sealed
                && !(program == Program::PackageManager && may_bring_files(&rule.path))
        };
        let shut: Vec<&Rule> = self.0.iter().filter(is_shut).collect();
        let open = self.0.iter().filter(|rule| {
            rule.class != Class::Sealed && shut.iter().any(|above| rule.path.starts_with(&above.path))
        });
        let at = |rule: &Rule| layout.at(rule.path.as_str());
        Bounds {
            limits,
            read_write: open.map(at).collect(),
            read_only: shut.iter().map(|rule| at(rule)).collect(),
        }
    }
}

/// The rules of one file.
fn parse(file: &str, content: &[u8]) -> Result<Vec<Rule>, RuleError> {
    let mut rules = Vec::new();
    for (number, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let source = format!("{file}:{}", number + 1);
        let refuse = |why: String| RuleError { source_line: source.clone(), why };
        let line = std::str::from_utf8(line).map_err(|_| refuse("it is not UTF-8".to_owned()))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (class, path) = match line.split_once(char::is_whitespace) {
            Some((word, path)) if !line.starts_with('/') => (class(word).map_err(refuse)?, path.trim_start()),
            _ => (Class::Sealed, line),
        };
        let path = clean(path).map_err(|why| refuse(format!("{path:?} {why}")))?;
        rules.push(Rule { path, class, source });
    }
    Ok(rules)
}

fn class(word: &str) -> Result<Class, String> {
    match word {
        "sealed" => Ok(Class::Sealed),
        "live" => Ok(Class::Live),
        "except" => Ok(Class::Except),
        "managed" => Err(format!("only {KUBERNETES} is managed, and is so by default")),
        other => {
            Err(format!("{other:?} is no class: say sealed, live or except, or only a path, which is sealed"))
        }
    }
}

/// The path, if it is absolute and says in the shortest way what it names. A slash at its end is forgiven.
pub(crate) fn clean(path: &str) -> Result<Utf8PathBuf, &'static str> {
    if !path.starts_with('/') {
        return Err("is not an absolute path");
    }
    if path.chars().any(char::is_control) {
        return Err("has control characters");
    }
    let parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').skip(1).collect();
    if parts.is_empty() {
        return Err("is the whole node");
    }
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err("has an empty part, `.` or `..` in it");
    }
    let path = Utf8PathBuf::from(format!("/{}", parts.join("/")));
    debug_assert!(path.components().all(|part| part != Utf8Component::ParentDir));
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn read(redeploy: Option<&str>, files: &[(&str, &str)]) -> Result<Rules, String> {
        let files: Vec<(String, Vec<u8>)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        Rules::read("/var/lib/liftlock".into(), redeploy.map(str::as_bytes), &files)
            .map_err(|error| error.to_string())
    }

    fn class_of(rules: &Rules, path: &str) -> Option<Class> {
        rules.class_of(path.into())
    }

    #[test]
    fn the_default_list_has_each_path_once_and_in_its_class() {
        let rules = read(None, &[]).unwrap();
        for (path, class) in DEFAULTS {
            assert_eq!(class_of(&rules, path), Some(class), "{path}");
        }
        assert_eq!(rules.iter().count(), DEFAULTS.len() + 1, "and the agent's own state");
    }

    #[test]
    fn operators_add_paths_and_have_the_last_word_on_a_class() {
        let text = "# ours\n\n/srv/shop/settings/\n  live   /srv/my spool \nlive /data\nexcept /root/x\n";
        let rules = read(None, &[("a.conf", text)]).unwrap();
        assert_eq!(class_of(&rules, "/srv/shop/settings"), Some(Class::Sealed));
        assert_eq!(class_of(&rules, "/srv/my spool"), Some(Class::Live));
        assert_eq!(class_of(&rules, "/data"), Some(Class::Live));
        assert!(rules.below("/root".into()).contains(&"x".into()));
        let source = rules.iter().find(|rule| rule.path == "/srv/my spool").unwrap().source.clone();
        assert_eq!(source, "a.conf:4");
    }

    #[test]
    fn what_redeploy_conf_names_is_protected_and_keeps_the_default_class() {
        let rules = read(Some("/etc/kubernetes\n/var/lib/etcd\n/srv/x\n"), &[]).unwrap();
        assert_eq!(class_of(&rules, "/etc/kubernetes"), Some(Class::Managed));
        assert_eq!(class_of(&rules, "/var/lib/etcd"), Some(Class::Live));
        assert_eq!(class_of(&rules, "/srv/x"), Some(Class::Sealed));
        let rules = read(Some("/srv/x\n"), &[("a.conf", "live /srv/x")]).unwrap();
        assert_eq!(class_of(&rules, "/srv/x"), Some(Class::Live));
    }

    #[test]
    fn a_line_that_is_no_clean_absolute_path_is_refused_with_its_file_and_number() {
        for (line, why) in [
            ("srv/x", "is not an absolute path"),
            ("/", "is the whole node"),
            ("/srv/../etc", "`..`"),
            ("/srv/./x", "`.`"),
            ("/srv//x", "an empty part"),
            ("/srv/\tx", "control characters"),
            ("live srv/x", "is not an absolute path"),
            ("frozen /srv/x", "\"frozen\" is no class"),
            ("managed /srv/x", "only /etc/kubernetes is managed"),
            ("/var/lib/liftlock/journal", "Liftlock writes there itself"),
            ("live /etc/kubernetes/tmp", "Liftlock writes there itself"),
        ] {
            let error =
                read(None, &[("/etc/liftlock/protect.d/a.conf", &format!("# x\n{line}\n"))]).unwrap_err();
            assert!(error.starts_with("/etc/liftlock/protect.d/a.conf:2: "), "{error}");
            assert!(error.contains(why), "{line}: {error}");
        }
        let error = read(None, &[("a.conf", "/srv/x"), ("b.conf", "live /srv/x")]).unwrap_err();
        assert_eq!(error, "b.conf:1: /srv/x is sealed already, by a.conf:1");
    }

    fn limits() -> Limits {
        Limits { time: Duration::from_secs(1), silence: Duration::from_secs(1) }
    }

    #[test]
    fn kubeadm_reads_sealed_paths_only_and_the_package_manager_may_bring_its_own_files() {
        let rules = read(None, &[("a.conf", "/srv\nlive /srv/spool\n")]).unwrap();
        let layout = Layout { root: "/node".into(), state_dir: "/node/var/lib/liftlock".into() };
        let kubeadm = rules.bounds(Program::Kubeadm, &layout, limits());
        assert!(kubeadm.read_only.contains(&"/node/etc/default/kubelet".into()));
        assert!(kubeadm.read_only.contains(&"/node/srv".into()));
        assert!(kubeadm.read_write.contains(&"/node/srv/spool".into()));
        assert!(kubeadm.read_write.contains(&"/node/root/.cache".into()));
        for its_own in ["/node/etc/kubernetes", "/node/var/lib/kubelet", "/node/var/lib/etcd"] {
            assert!(!kubeadm.read_only.contains(&its_own.into()), "{its_own}");
        }
        let packages = rules.bounds(Program::PackageManager, &layout, limits());
        assert!(packages.read_only.contains(&"/node/root".into()));
        for may_write in ["/node/etc/default/kubelet", "/node/etc/sysconfig/kubelet", "/node/etc/cni"] {
            assert!(!packages.read_only.contains(&may_write.into()), "{may_write}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_file_says_each_rule_is_a_clean_absolute_path_or_all_is_refused(text in "[ /.#a-z\\n\\t]{0,60}") {
            if let Ok(rules) = read(Some(&text), &[("a.conf", &text)]) {
                for rule in rules.iter() {
                    prop_assert_eq!(clean(rule.path.as_str()), Ok(rule.path.clone()));
                }
            }
        }
    }
}
