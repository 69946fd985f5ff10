//! `systemctl` and `systemd-run`.

use anyhow::Result;
use camino::Utf8Path;

use super::{Call, err, out};
use crate::standin::systemd::{Ask, Transient, UnitState, ask};

pub(super) fn systemctl(call: &Call) -> Result<u8> {
    let words: Vec<&str> = call.arguments().into_iter().filter(|word| !word.starts_with('-')).collect();
    let unit = |name: &str| if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    match words.as_slice() {
        ["daemon-reload"] => Ok(told(call, &Ask::Reload, 1)),
        ["show", name, ..] => {
            if let Some(state) = ask(&call.root, &Ask::Show(unit(name)))? {
                show(call, &unit(name), &state);
            }
            Ok(0)
        }
        ["is-active", name] => {
            let state = ask(&call.root, &Ask::Show(unit(name)))?;
            let active = state.map_or_else(|| "inactive".to_owned(), |state| state.active);
            out(&active);
            Ok(if active == "active" { 0 } else { 3 })
        }
        ["stop", name] => Ok(told(call, &Ask::Stop(unit(name)), 5)),
        ["reset-failed", name] => Ok(told(call, &Ask::ResetFailed(unit(name)), 1)),
        ["restart" | "start", name] => Ok(told(call, &Ask::Restart(unit(name)), 5)),
        _ => {
            err(format_args!("Unknown command verb {}.", words.first().unwrap_or(&"")));
            Ok(1)
        }
    }
}

fn told(call: &Call, question: &Ask, failed: u8) -> u8 {
    match ask(&call.root, question) {
        Ok(_) => 0,
        Err(error) => {
            err(error);
            failed
        }
    }
}

fn show(call: &Call, unit: &str, state: &UnitState) {
    let wanted: Vec<&str> =
        call.value(&["-p", "--property"]).map(|names| names.split(',').collect()).unwrap_or_default();
    let line = |name: &str, value: &dyn std::fmt::Display| {
        if wanted.is_empty() || wanted.contains(&name) {
            out(format_args!("{name}={value}"));
        }
    };
    // systemd prints in its own order, not in that of the question.
    line("MainPID", &state.main_pid);
    line("Result", &state.result);
    line("ExecMainStartTimestampMonotonic", &state.started_us);
    line("ExecMainPID", &state.exec_main_pid);
    line("ExecMainCode", &state.code);
    line("ExecMainStatus", &state.status);
    line("Id", &unit);
    line("Description", &state.description);
    line("LoadState", &state.load);
    line("ActiveState", &state.active);
    line("SubState", &state.sub);
}

pub(super) fn systemd_run(call: &Call) -> u8 {
    let mut transient = Transient::default();
    let mut arguments = call.arguments.iter();
    while let Some(argument) = arguments.next() {
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        match argument.split_once('=').unwrap_or((argument, "")) {
            // As in a unit file, $$ stands for a dollar sign.
            ("--", _) => transient.argv = arguments.by_ref().map(|word| word.replace("$$", "$")).collect(),
            ("--unit", name) => transient.unit = format!("{}.service", name.trim_end_matches(".service")),
            ("--description", text) => text.clone_into(&mut transient.description),
            ("--property", property) => transient.properties.push(pair(property)),
            ("--setenv", variable) => transient.environment.push(pair(variable)),
            ("--service-type", kind) => transient.properties.push(("Type".to_owned(), kind.to_owned())),
            ("--quiet" | "--no-ask-password" | "--collect", _) => {}
            _ => {
                err(format_args!("systemd-run: unrecognized option '{argument}'"));
                return 1;
            }
        }
    }
    let Some(program) = transient.argv.first_mut() else {
        err("Command line to execute required.");
        return 1;
    };
    if !program.contains('/') {
        *program = call.node.programs().join(&*program).into_string();
    }
    if !Utf8Path::new(program).exists() {
        err(format_args!("Failed to find executable {program}: No such file or directory"));
        return 1;
    }
    let unit = transient.unit.clone();
    let status = told(call, &Ask::Run(transient), 1);
    if status == 0 && !call.has(&["--quiet"]) {
        err(format_args!("Running as unit: {unit}"));
    }
    status
}
