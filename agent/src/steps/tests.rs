//! Tests of the steps over the twin.
