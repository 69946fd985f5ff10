//! Which points go into one raise: several, each at another step or on another node.

use std::collections::{BTreeMap, VecDeque};

use liftlock_proto::plan::{Purpose, Role};

use crate::matrix::chance::Chance;
use crate::matrix::points::CrashPoint;
use crate::standin::cluster::Shape;

/// One fleet's way: it is raised, or raised and rolled back, and meets these faults.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) purpose: Purpose,
    /// Two control planes, or one and a worker.
    pub(super) two_control_planes: bool,
    /// In the order in which they come.
    pub(super) points: Vec<CrashPoint>,
    seed: u64,
}

impl Course {
    /// One of which nobody says beforehand where it is struck.
    pub(super) fn without_points(purpose: Purpose, two_control_planes: bool, seed: u64) -> Self {
        Self { number: 1, purpose, two_control_planes, points: Vec::new(), seed }
    }

    /// The nodes that are leased, in the order of the plan.
    pub(super) fn nodes(&self) -> Vec<(&'static str, Role)> {
        let second = if self.two_control_planes { ("cp2", Role::ControlPlane) } else { ("w1", Role::Worker) };
        vec![("cp1", Role::FirstControlPlane), second]
    }

    /// A raise that is to be rolled back stops before its last node: what is raised as a whole is final.
    pub(super) fn shape(&self) -> Shape {
        let more = usize::from(self.purpose == Purpose::RollBack);
        if self.two_control_planes { Shape::new(2, more) } else { Shape::new(1, 1 + more) }
    }

    /// What is left to chance in it, so that the same points by themselves meet the same.
    pub(super) fn chance(&self) -> Chance {
        Chance::of(self.seed, self.points.iter().map(ToString::to_string))
    }

    /// The points of one node's lease.
    pub(super) fn of(&self, role: Role) -> Vec<&CrashPoint> {
        self.points.iter().filter(|point| point.role == role).collect()
    }
}

/// Spreads points over as few courses as may be, with at most so many in one lease.
pub(super) fn plot(points: &[CrashPoint], per_lease: usize, seed: u64) -> Vec<Course> {
    let mut chance = Chance::new(seed);
    let mut courses = Vec::new();
    for purpose in [Purpose::Raise, Purpose::RollBack] {
        for two_control_planes in [false, true] {
            let other = if two_control_planes { Role::ControlPlane } else { Role::Worker };
            let first = !two_control_planes;
            let mut queues: Vec<Vec<Vec<CrashPoint>>> = [(Role::FirstControlPlane, first), (other, true)]
                .into_iter()
                .filter(|(_, here)| *here)
                .map(|(role, _)| {
                    let of = |point: &&CrashPoint| point.purpose == purpose && point.role == role;
                    let mut queue: Vec<_> = points.iter().filter(of).cloned().collect();
                    chance.shuffle(&mut queue);
                    by_stretch(queue)
                })
                .collect();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let mut taken: Vec<CrashPoint> = Vec::new();
                for queue in &mut queues {
                    taken.extend(take(queue, per_lease));
                }
                let number = courses.len() + 1;
                courses.push(Course { number, purpose, two_control_planes, points: taken, seed });
            }
        }
    }
    courses
}

/// So many points of some of the courses, raises and rollbacks in turn.
pub(super) fn draw(mut courses: Vec<Course>, points: usize, seed: u64) -> Vec<Course> {
    Chance::new(seed).shuffle(&mut courses);
    let (mut next, mut other): (VecDeque<_>, VecDeque<_>) =
        courses.into_iter().partition(|course| course.purpose == Purpose::Raise);
    let (mut drawn, mut left) = (Vec::new(), points);
    while left > 0
        && let Some(mut course) = next.pop_front().or_else(|| other.pop_front())
    {
        course.points.truncate(left);
        left -= course.points.len();
        drawn.push(course);
        std::mem::swap(&mut next, &mut other);
    }
    drawn
}

/// The points of one lease, those of each stretch together.
fn by_stretch(points: Vec<CrashPoint>) -> Vec<Vec<CrashPoint>> {
    let mut stretches: BTreeMap<String, Vec<CrashPoint>> = BTreeMap::new();
    for point in points {
        stretches.entry(point.stretch().to_owned()).or_default().push(point);
    }
    stretches.into_values().collect()
}

/// Takes points of one lease, each from another stretch, first from where most are left.
fn take(stretches: &mut Vec<Vec<CrashPoint>>, most: usize) -> Vec<CrashPoint> {
    stretches.sort_by_key(|stretch| std::cmp::Reverse(stretch.len()));
    let mut taken: Vec<CrashPoint> = stretches.iter_mut().take(most).filter_map(Vec::pop).collect();
    stretches.retain(|stretch| !stretch.is_empty());
    taken.sort_by_key(|point| point.position);
    taken
}
