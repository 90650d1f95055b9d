//! What several test files share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::allow_attributes)]

pub mod golden;
pub mod tiny;
