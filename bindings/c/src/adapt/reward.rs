//! Rewards that the app computes.

use std::{
    ffi::{c_char, c_void},
    sync::Arc,
};

use owlet_adapters::{
    data::Sample,
    reward::{Reward, RewardParts, VerifiableReward},
};
use owlet_runtime::{Error, ErrorKind, Result};

use super::{
    dataset::{owlet_sample_view, view},
    inside::Inside,
};
use crate::{
    answer::{callback_failed, owlet_flow},
    boundary::null,
    input::{self, versioned},
    log::{UserData, owlet_release_callback},
    text::c_string,
};

/// The parts of an answer's reward. 0 to begin with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_reward_parts {
    /// sizeof(owlet_reward_parts) of the library: later versions may have more fields behind these.
    pub struct_size: usize,
    /// How right the answer is, 0 to 1. Questions whose answers are all equally right teach nothing.
    pub accuracy: f64,
    /// Whether the tags are as asked for, 0 to 1.
    pub format: f64,
    /// Whether the answer has the structure of its problem type, 0 to 0.5.
    pub structure: f64,
}

versioned!(owlet_reward_parts);

/// Writes to `*parts` what `response`, the whole text that the model wrote to `sample`, is worth. Called from threads of the
/// library, several at once too; it must be deterministic: a run that was stopped and resumed ends in the same adapter only
/// then. Returns an owlet_flow: after anything but OWLET_FLOW_CONTINUE, and after parts out of range, the call that runs the
/// job ends with OWLET_STATUS_CALLBACK; another call goes on and asks again.
pub type owlet_reward_callback = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        response: *const c_char,
        sample: *const owlet_sample_view,
        parts: *mut owlet_reward_parts,
    ) -> i32,
>;

/// A rule that scores answers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_reward {
    /// sizeof(owlet_reward), set by the caller.
    pub struct_size: usize,
    /// The rule's name and version: a run goes on only with the rule that it began with. Copied.
    pub name: *const c_char,
    /// The rule.
    pub score: owlet_reward_callback,
    /// Given to `score`; usable from any thread until it is released.
    pub user_data: *mut c_void,
    /// Called with `user_data` when the library is done with it, also after a failure; default NULL.
    pub release: owlet_release_callback,
}

versioned!(owlet_reward);

/// A rule of the app.
struct Foreign {
    name: String,
    score: unsafe extern "C" fn(*mut c_void, *const c_char, *const owlet_sample_view, *mut owlet_reward_parts) -> i32,
    user_data: UserData,
    /// The job that it is of.
    job: u64,
}

/// The rule of `reward` for job number `job`, or Owlet's own for NULL.
///
/// # Safety
/// `reward` is as the header says.
pub(super) unsafe fn read(reward: *const owlet_reward, job: u64) -> Result<Arc<dyn Reward>> {
    if reward.is_null() {
        return Ok(Arc::new(VerifiableReward));
    }
    // SAFETY: by the contract above.
    let given = unsafe { input::required(reward) }?;
    let user_data = UserData::new(given.user_data, given.release);
    // SAFETY: by the contract above.
    let name = unsafe { input::text(given.name, "name of the reward") }?.to_owned();
    let score = given.score.ok_or_else(|| null("score of the reward"))?;
    Ok(Arc::new(Foreign { name, score, user_data, job }))
}

impl Reward for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, response: &str, sample: &Sample) -> Result<RewardParts> {
        let mut parts: owlet_reward_parts = input::zeroed();
        let response = c_string(response);
        let _inside = Inside::of(self.job);
        let flow = view(sample, |sample| {
            // SAFETY: the app gave a function of this type and its data; the other pointers live during the call.
            unsafe { (self.score)(self.user_data.data, response.as_ptr(), sample, &raw mut parts) }
        });
        if flow != owlet_flow::Continue as i32 {
            return Err(callback_failed(flow).at("reward"));
        }
        let owlet_reward_parts { accuracy, format, structure, .. } = parts;
        for (part, value, most) in [("accuracy", accuracy, 1.0), ("format", format, 1.0), ("structure", structure, 0.5)]
        {
            if !(0.0..=most).contains(&value) {
                let error = Error::new(ErrorKind::Callback, "reward out of range").at(part).got(value);
                return Err(error.needed(format!("0 to {most}")));
            }
        }
        Ok(RewardParts { accuracy, format, structure })
    }
}
