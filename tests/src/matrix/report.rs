//! What a run of the matrix found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use liftlock_proto::plan::Purpose;
use serde::Serialize;

use crate::matrix::points::Blow;
use crate::matrix::voyage::Voyage;

/// The whole run, as its last line says it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every point was reached and converged, and no invariant was violated.
    pub ok: bool,
    /// How many were to be struck.
    pub points: usize,
    /// How many of them were.
    pub reached: usize,
    /// How many are of a roll-out that ended as it should, with nobody's help.
    pub converged: usize,
    /// How many of these ended raised.
    pub raised: usize,
    /// How many of these ended rolled back.
    pub rolled_back: usize,
    /// How many invariants did not hold, each counted once for each roll-out.
    pub violations: usize,
    /// From a process's death to the next journalled step or attempt, the median in seconds; `null` if none died.
    pub recovery_median_s: Option<f64>,
    /// The same for each fault, from its end.
    pub recovery_median_by_fault_s: BTreeMap<&'static str, Option<f64>>,
    /// Roll-outs that the points were spread over.
    pub rollouts: usize,
    /// With it the same run can be had again.
    pub seed: u64,
    /// From the first roll-out to the last one's end, in seconds.
    pub wall_s: f64,
    /// What went wrong, for people, with how to have it again.
    #[serde(skip)]
    pub findings: Vec<String>,
    /// Each fault with its points, reached, converged.
    #[serde(skip)]
    by_fault: Vec<(Blow, [usize; 3])>,
}

impl Report {
    pub(super) fn of(voyages: &[Voyage], seed: u64, wall: Duration) -> Self {
        let met = || voyages.iter().flat_map(|voyage| voyage.met.iter().map(move |met| (voyage, met)));
        let count = |wanted: &dyn Fn(&Voyage, &crate::matrix::voyage::Met) -> bool| {
            met().filter(|(voyage, met)| wanted(voyage, met)).count()
        };
        let recovery = |blows: &dyn Fn(Blow) -> bool| {
            median(
                met().filter(|(_, met)| blows(met.point.blow)).filter_map(|(_, met)| met.recovery).collect(),
            )
        };
        let ended = |purpose: Purpose| {
            count(&|voyage, met| {
                voyage.converged && met.fault_ended_ms.is_some() && voyage.course.purpose == purpose
            })
        };
        let (points, reached) = (met().count(), count(&|_, met| met.fault_ended_ms.is_some()));
        let (raised, rolled_back) = (ended(Purpose::Raise), ended(Purpose::RollBack));
        let violations = voyages.iter().map(|voyage| voyage.violations.len()).sum();
        let converged = raised + rolled_back;
        let by_fault = Blow::ALL.map(|blow| {
            let of = |met: &crate::matrix::voyage::Met| met.point.blow == blow;
            let hit = |met: &crate::matrix::voyage::Met| of(met) && met.fault_ended_ms.is_some();
            (
                blow,
                [
                    count(&|_, met| of(met)),
                    count(&|_, met| hit(met)),
                    count(&|voyage, met| hit(met) && voyage.converged),
                ],
            )
        });
        Self {
            ok: points == reached && points == converged && violations == 0,
            points,
            reached,
            converged,
            raised,
            rolled_back,
            violations,
            recovery_median_s: recovery(&Blow::is_a_process_death),
            recovery_median_by_fault_s: Blow::ALL
                .map(|blow| (blow.name(), recovery(&|other| other == blow)))
                .into(),
            rollouts: voyages.len(),
            seed,
            wall_s: rounded(wall),
            findings: voyages.iter().filter_map(finding).collect(),
            by_fault: by_fault.into(),
        }
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<22}{:>8}{:>9}{:>11}{:>15}\n",
            "FAULT", "POINTS", "REACHED", "CONVERGED", "RECOVERY (S)"
        );
        for (blow, [points, reached, converged]) in &self.by_fault {
            let recovery = self.recovery_median_by_fault_s.get(blow.name()).copied().flatten();
            let recovery = recovery.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"));
            _ = writeln!(table, "{:<22}{points:>8}{reached:>9}{converged:>11}{recovery:>15}", blow.name());
        }
        _ = writeln!(
            table,
            "\n{} points over {} roll-outs in {:.0} s: {} reached, {} ended raised, {} rolled back; {} violations",
            self.points,
            self.rollouts,
            self.wall_s,
            self.reached,
            self.raised,
            self.rolled_back,
            self.violations
        );
        table
    }
}

/// What went wrong in one roll-out; `None` if nothing did.
pub(super) fn finding(voyage: &Voyage) -> Option<String> {
    let missed: Vec<String> = voyage
        .met
        .iter()
        .filter(|met| met.fault_ended_ms.is_none())
        .map(|met| format!("not reached: {}: {}", met.point, met.missed))
        .collect();
    if voyage.converged && voyage.violations.is_empty() && missed.is_empty() {
        return None;
    }
    let names: Vec<String> = voyage.met.iter().map(|met| met.point.to_string()).collect();
    let mut text = format!("roll-out {}: --points {}\n", voyage.course.number, names.join(","));
    for line in missed.iter().chain(&voyage.violations) {
        _ = writeln!(text, "  {line}");
    }
    if !voyage.failure.is_empty() {
        _ = writeln!(text, "  {}", voyage.failure.replace('\n', "\n  "));
    }
    Some(text)
}

fn median(mut durations: Vec<Duration>) -> Option<f64> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().map(rounded)
}

/// In seconds, to the millisecond.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
