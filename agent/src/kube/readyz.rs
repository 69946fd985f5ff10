//! What an API server says of itself at /readyz.

/// What is wrong, in one line: the checks that fail where it names any, else all that it said.
pub(super) fn in_short(said: &str) -> String {
    let failing: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .filter_map(|check| check.split_whitespace().next())
        .collect();
    match failing.as_slice() {
        [] => said.to_owned(),
        [check] => format!("its check {check} fails"),
        _ => format!("its checks {} fail", failing.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As v1.19.7 said it a few seconds after its start.
    const STARTING: &str = "[+]ping ok\n[+]etcd ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n\
                            [-]poststarthook/scheduling/bootstrap-system-priority-classes failed: reason withheld\n\
                            [+]shutdown ok\nreadyz check failed\n";

    #[test]
    fn of_many_checks_those_that_fail_are_named() {
        let both = "its checks poststarthook/rbac/bootstrap-roles, \
                    poststarthook/scheduling/bootstrap-system-priority-classes fail";
        assert_eq!(in_short(STARTING), both);
        assert_eq!(in_short("[+]ping ok\n[-]etcd failed: reason withheld\n"), "its check etcd fails");
    }

    #[test]
    fn what_names_no_check_is_told_as_it_is() {
        assert_eq!(in_short("connection refused"), "connection refused");
    }
}
