//! Whether what lies at a path can be believed: nobody but root can have put it there.

use camino::Utf8Path;

use crate::host::trees::{Kind, Survey};
use crate::host::{HostResult, Layout, Trees};

/// Why what lies at a path is not to be believed, and what to do, if that is so: others than who owns / may write to it
/// or to a folder above it, or a symbolic link leads there.
pub async fn distrust(trees: &dyn Trees, layout: &Layout, place: &Utf8Path) -> HostResult<Option<String>> {
    let look = async |path: &Utf8Path| HostResult::Ok(trees.survey(Survey::at(path)).await?.root);
    // / itself lies in no folder to look at it from; it is root's.
    let (uid, gid) = look(&layout.root).await?.map_or((0, 0), |root| (root.uid, root.gid));
    for path in place.ancestors().take_while(|path| *path != layout.root) {
        let Some(entry) = look(path).await? else { continue };
        if matches!(entry.kind, Kind::Link(_)) {
            return Ok(Some(format!("{path} is a symbolic link: name where it really leads")));
        }
        let others = if entry.gid == gid { 0o002 } else { 0o022 };
        // In a folder with the sticky bit nobody renames what is another's.
        let sticky = path != place && entry.mode & 0o1000 != 0;
        if entry.uid != uid || (entry.mode & others != 0 && !sticky) {
            return Ok(Some(format!(
                "others than root may write to {path}, and could have root write what they like: `chown root:root {path}` \
                 and `chmod go-w {path}`"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the tests look past what they test")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use camino::Utf8PathBuf;
    use tempfile::TempDir;

    use super::*;
    use crate::host::real::RealTrees;

    #[tokio::test]
    async fn what_others_may_write_to_and_what_a_link_leads_to_is_not_believed() {
        let folder = TempDir::new().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().canonicalize().unwrap()).unwrap();
        fs::create_dir_all(root.join("srv/offline/v1.31.2")).unwrap();
        let at = |path: &str| root.join("srv").join(path);
        let permit = |path: &str, mode| fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
        fs::write(at("offline/v1.31.2/kubeadm"), "a program").unwrap();
        for (path, mode) in
            [("", 0o755), ("offline", 0o755), ("offline/v1.31.2", 0o755), ("offline/v1.31.2/kubeadm", 0o644)]
        {
            permit(path, mode);
        }
        let layout = Layout { state_dir: root.join("state"), root: root.clone() };
        let trees = RealTrees::new(layout.clone());
        let why = async |path: &str| distrust(&trees, &layout, &at(path)).await.unwrap().unwrap_or_default();
        let file = "offline/v1.31.2/kubeadm";
        assert_eq!(why(file).await, "");
        for (path, wrong, right) in [
            (file, 0o646, 0o644),
            ("offline/v1.31.2", 0o757, 0o755),
            ("offline", 0o777, 0o755),
            ("", 0o757, 0o755),
        ] {
            permit(path, wrong);
            let refused = why(file).await;
            permit(path, right);
            assert!(refused.contains(at(path).as_str().trim_end_matches('/')), "{path:?}: {refused}");
        }
        // In a folder such as /tmp nobody renames what is another's.
        permit("", 0o1777);
        assert_eq!(why(file).await, "");
        symlink("/etc/passwd", at("offline/kubelet")).unwrap();
        assert!(why("offline/kubelet").await.contains("symbolic link"));
        symlink(at("offline"), at("elsewhere")).unwrap();
        let through = distrust(&trees, &layout, &at("elsewhere/v1.31.2/kubeadm")).await;
        assert!(format!("{through:?}").contains("symbolic link"), "{through:?}");
    }
}
