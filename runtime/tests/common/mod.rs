//! What several test files share.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod golden;
