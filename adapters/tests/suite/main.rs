//! Tests of the crate's public interface against golden cases; one binary, because each one links llama.cpp.

mod advantages;
mod golden;
mod length;
mod loss;
mod rewards;
