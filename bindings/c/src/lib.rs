//! The C interface of Owlet. `bindings/include/owlet.h` is made of the documentation and signatures in this crate.
//!
//! `C -> boundary (panics, errors) -> input (pointers to Rust values) -> runtime, adapters -> handle (Rust values to pointers)`.
//!
//! 1. `handle`: every pointer to an opaque type is known while it lives, so a stale or foreign one is an error.
//! 2. `input`: what callers pass is checked once, where it comes in; behind it all is safe Rust.
//! 3. `boundary`: no panic leaves a function, every failure becomes a status and, where it is wanted, an error object.
//!
//! The modules behind them have a type each, in the order of a program: model, image, session, adapter, job.
#![allow(rustdoc::invalid_html_tags, reason = "the documentation is that of owlet.h, where <image> is no tag")]
#![expect(non_camel_case_types, reason = "names are those of owlet.h")]
#![expect(clippy::missing_safety_doc, reason = "the rules for all pointers are stated once, at the top of owlet.h")]

mod boundary;
mod handle;
mod input;

mod adapt;
mod adapter;
mod answer;
mod cancel;
mod device;
mod error;
mod generate;
mod image;
mod log;
mod message;
mod model;
mod plan;
mod score;
mod session;
mod text;
mod turn;
mod version;

pub use self::{
    adapt::*, adapter::*, answer::*, cancel::*, device::*, error::*, generate::*, image::*, log::*, message::*,
    model::*, plan::*, score::*, session::*, text::*, turn::*, version::*,
};
