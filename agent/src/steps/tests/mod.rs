//! The steps over the twin: first what must hold of every one of them, then each rule by itself.

mod addons;
mod drain;
mod engine;
mod every_step;
mod gates;
mod harness;
mod hooks;
mod joining;
mod preparations;
mod protection;
mod recovery;
mod redeploy;
