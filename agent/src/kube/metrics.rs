//! What an API server counts, as far as an upgrade asks for it.

/// Set to 1 for each API version that was asked for since the API server's start and that is deprecated, since 1.19
/// (<https://kubernetes.io/blog/2020/09/03/warnings/>).
const REQUESTED: &str = "apiserver_requested_deprecated_apis{";

/// An API version that was asked for, `policy/v1beta1/podsecuritypolicies`, and the minor that removes it; `None` for
/// other lines. Without a minor (0) it is deprecated, and nobody has said when it goes.
pub(super) fn deprecated_api(line: &str) -> Option<(String, u16)> {
    let labels = line.strip_prefix(REQUESTED)?.split_once('}')?.0;
    // None of these labels' values has a comma or a quote in it.
    let label = |name: &str| {
        let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
    };
    let (version, resource) = (label("version")?, label("resource")?);
    let group = label("group").filter(|group| !group.is_empty()).map(|group| format!("{group}/"));
    let removed_in = label("removed_release").and_then(|release| release.strip_prefix("1.")?.parse().ok());
    Some((format!("{}{version}/{resource}", group.unwrap_or_default()), removed_in.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deprecated_api_that_was_asked_for_is_read_with_the_minor_that_removes_it() {
        let line = "apiserver_requested_deprecated_apis{group=\"policy\",removed_release=\"1.25\",\
                    resource=\"podsecuritypolicies\",subresource=\"\",version=\"v1beta1\"} 1";
        assert_eq!(deprecated_api(line), Some(("policy/v1beta1/podsecuritypolicies".to_owned(), 25)));
        let of_the_core = "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",\
                           resource=\"componentstatuses\",subresource=\"\",version=\"v1\"} 1";
        assert_eq!(deprecated_api(of_the_core), Some(("v1/componentstatuses".to_owned(), 0)));
    }

    #[test]
    fn other_lines_of_metrics_say_nothing() {
        for line in [
            "# HELP apiserver_requested_deprecated_apis [STABLE] Gauge of deprecated APIs",
            "apiserver_request_total{code=\"200\",resource=\"pods\",version=\"v1\"} 7",
            "apiserver_requested_deprecated_apis{group=\"policy\"",
            "",
        ] {
            assert_eq!(deprecated_api(line), None, "{line}");
        }
    }
}
