//! How a roll-out is conducted, as messages say it.

use liftlock_proto::v1;

use crate::core::alerts::AlertFilter;
use crate::core::conduct::Conduct;
use crate::core::hooks::{Hook, Hooks, Target};
use crate::core::window::{Day, Window, WindowError};

/// A message that says of no conduct that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConductError {
    /// A window that is none.
    #[error("of a window: {0}")]
    Window(#[from] WindowError),
    /// One that never opens.
    #[error(
        "a window without a day never opens: allowed is at least one of mon, tue, wed, thu, fri, sat, sun"
    )]
    NoDay,
    /// A hook that calls nothing.
    #[error(
        "the message holds a hook that calls nothing that this version of Liftlock knows: bring both sides to one version"
    )]
    Hook,
}

impl From<Conduct> for v1::Conduct {
    fn from(conduct: Conduct) -> Self {
        let Conduct { windows, alerts, hooks } = conduct;
        Self {
            windows: windows.into_iter().map(Into::into).collect(),
            alerts: (!alerts.is_default()).then(|| alerts.into()),
            hooks: (!hooks.is_default()).then(|| hooks.into()),
        }
    }
}

impl TryFrom<v1::Conduct> for Conduct {
    type Error = ConductError;

    fn try_from(message: v1::Conduct) -> Result<Self, ConductError> {
        let v1::Conduct { windows, alerts, hooks } = message;
        Ok(Self {
            windows: windows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            alerts: alerts.unwrap_or_default().into(),
            hooks: hooks.unwrap_or_default().try_into()?,
        })
    }
}

impl From<Hooks> for v1::Hooks {
    fn from(hooks: Hooks) -> Self {
        let list = |hooks: Vec<Hook>| hooks.into_iter().map(Into::into).collect();
        let Hooks { before_plan, after_plan, before_pool, after_pool, before_node, after_node } = hooks;
        Self {
            before_plan: list(before_plan),
            after_plan: list(after_plan),
            before_pool: list(before_pool),
            after_pool: list(after_pool),
            before_node: list(before_node),
            after_node: list(after_node),
        }
    }
}

impl TryFrom<v1::Hooks> for Hooks {
    type Error = ConductError;

    fn try_from(message: v1::Hooks) -> Result<Self, ConductError> {
        let list =
            |hooks: Vec<v1::Hook>| hooks.into_iter().map(Hook::try_from).collect::<Result<Vec<_>, _>>();
        let v1::Hooks { before_plan, after_plan, before_pool, after_pool, before_node, after_node } = message;
        Ok(Self {
            before_plan: list(before_plan)?,
            after_plan: list(after_plan)?,
            before_pool: list(before_pool)?,
            after_pool: list(after_pool)?,
            before_node: list(before_node)?,
            after_node: list(after_node)?,
        })
    }
}

impl From<Hook> for v1::Hook {
    fn from(Hook { target, timeout_seconds }: Hook) -> Self {
        let target = match target {
            Target::Name(name) => v1::hook::Target::Name(name),
            Target::Url(url) => v1::hook::Target::Url(url),
        };
        Self { target: Some(target), timeout_seconds }
    }
}

impl TryFrom<v1::Hook> for Hook {
    type Error = ConductError;

    fn try_from(message: v1::Hook) -> Result<Self, ConductError> {
        let target = match message.target.ok_or(ConductError::Hook)? {
            v1::hook::Target::Name(name) => Target::Name(name),
            v1::hook::Target::Url(url) => Target::Url(url),
        };
        Ok(Self { target, timeout_seconds: message.timeout_seconds })
    }
}

impl From<AlertFilter> for v1::AlertFilter {
    fn from(filter: AlertFilter) -> Self {
        let AlertFilter { ignore, only_matching } = filter;
        let only_matching = only_matching.into_iter().map(|(label, values)| v1::LabelMatch { label, values });
        Self { ignore, only_matching: only_matching.collect() }
    }
}

impl From<v1::AlertFilter> for AlertFilter {
    fn from(message: v1::AlertFilter) -> Self {
        let v1::AlertFilter { ignore, only_matching } = message;
        let only_matching = only_matching.into_iter().map(|v1::LabelMatch { label, values }| (label, values));
        Self { ignore, only_matching: only_matching.collect() }
    }
}

impl From<Window> for v1::Window {
    fn from(window: Window) -> Self {
        let Window { days, from, to, time_zone } = window;
        Self {
            days: days.into_iter().map(|day| day.name().to_owned()).collect(),
            from: from.into(),
            to: to.into(),
            time_zone: time_zone.into(),
        }
    }
}

impl TryFrom<v1::Window> for Window {
    type Error = ConductError;

    fn try_from(message: v1::Window) -> Result<Self, ConductError> {
        let v1::Window { days, from, to, time_zone } = message;
        if days.is_empty() {
            return Err(ConductError::NoDay);
        }
        Ok(Self {
            days: days.iter().map(|day| day.parse::<Day>()).collect::<Result<_, _>>()?,
            from: from.try_into()?,
            to: to.try_into()?,
            time_zone: time_zone.try_into()?,
        })
    }
}
