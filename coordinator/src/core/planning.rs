//! A plan from what the agents report, or every reason why there is none.
