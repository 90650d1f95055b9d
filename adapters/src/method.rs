//! Published methods by name: which advantages go with which loss.
//!
//! A method is nothing but values of [`TrainerOptions::estimator`] and [`TrainerOptions::loss`]; any of them can be changed
//! afterwards. Where a paper leaves a number open, the table says where it is from.
//!
//! | method | advantages | ratio | clip low, high, dual | mean over | source |
//! |---|---|---|---|---|---|
//! | `g2rpo` | ranks to normal quantiles, group then task | token | 0.2, 0.3, 3 | tokens | arXiv 2604.08539 and its code |
//! | `g2rpo_group` | the same inside the group alone | token | 0.2, 0.3, 3 | tokens | arXiv 2604.08539, equation 13 |
//! | `grpo` | standardised in the group | token | 0.2, 0.2 | sequences | arXiv 2402.03300 |
//! | `dr_grpo` | centred in the group | token | 0.2, 0.2 | a fixed length | arXiv 2503.20783 |
//! | `dapo` | as `grpo` | token | 0.2, 0.28 | tokens | arXiv 2503.14476, section 4.1 |
//! | `gspo` | as `grpo` | sequence | 3e-4, 4e-4 | sequences | arXiv 2507.18071, section 5.1 |
//! | `cispo` | as `grpo` | token, held constant | none, 4 | tokens | arXiv 2506.13585; the bound of 5 is ScaleRL's, arXiv 2510.13786 |
//! | `sapo` | as `grpo` | token, soft gate | none | sequences | arXiv 2511.20347 |
//!
//! Ratio and clips say what happens when the policy has left the one that sampled. With one update a step
//! ([`TrainerOptions::updates_per_step`], the default) it has not: every ratio is 1, no clip or gate acts, and the gradients of
//! `grpo`, `gspo` and `sapo` are the same, as are those of `dapo` and `cispo`.
//!
//! KL penalties are apart from that ([`crate::loss::LossOptions::kl`], none by default): of these papers only GRPO's has
//! one, of 0.04. So are DAPO's other parts: dynamic sampling is [`TrainerOptions::filter`], which is on by default for every
//! method, and soft overlong punishment a length envelope.
//!
//! [`TrainerOptions::estimator`]: crate::options::TrainerOptions::estimator
//! [`TrainerOptions::loss`]: crate::options::TrainerOptions::loss
//! [`TrainerOptions::filter`]: crate::options::TrainerOptions::filter
//! [`TrainerOptions::updates_per_step`]: crate::options::TrainerOptions::updates_per_step

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};

use crate::{
    advantage::Estimator,
    loss::{Average, LossOptions, Objective},
};

/// A published method of policy optimization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Gaussian GRPO in two stages. The default.
    #[default]
    G2rpo,
    /// Gaussian GRPO in one stage.
    G2rpoGroup,
    /// Group relative policy optimization.
    Grpo,
    /// GRPO done right: neither the spread of the group nor the length of the response scales anything.
    DrGrpo,
    /// GRPO with a higher upper clip and all tokens alike.
    Dapo,
    /// Group sequence policy optimization.
    Gspo,
    /// Clipped importance sampling weights.
    Cispo,
    /// Soft adaptive policy optimization.
    Sapo,
}

impl Method {
    /// Every method, the default first.
    pub const ALL: [Self; 8] =
        [Self::G2rpo, Self::G2rpoGroup, Self::Grpo, Self::DrGrpo, Self::Dapo, Self::Gspo, Self::Cispo, Self::Sapo];

    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::G2rpo => "g2rpo",
            Self::G2rpoGroup => "g2rpo_group",
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr_grpo",
            Self::Dapo => "dapo",
            Self::Gspo => "gspo",
            Self::Cispo => "cispo",
            Self::Sapo => "sapo",
        }
    }

    /// The method that `objective` was published with; of the clipped one, the default.
    pub fn of_objective(objective: Objective) -> Self {
        match objective {
            Objective::Clipped => Self::G2rpo,
            Objective::Gspo => Self::Gspo,
            Objective::Cispo => Self::Cispo,
            Objective::Sapo { .. } => Self::Sapo,
        }
    }

    /// Its advantages and its loss; `max_new_tokens` is the fixed length of Dr. GRPO.
    pub fn parts(self, max_new_tokens: usize) -> (Estimator, LossOptions) {
        let reference = LossOptions::default();
        let ppo = LossOptions { clip_low: 0.2, clip_high: 0.2, clip_dual: None, average: Average::Seq, ..reference };
        match self {
            Self::G2rpo => (Estimator::G2rpo, reference),
            Self::G2rpoGroup => (Estimator::G2rpoGroup, reference),
            Self::Grpo => (Estimator::Grpo, ppo),
            Self::DrGrpo => {
                (Estimator::DrGrpo, LossOptions { average: Average::Fixed { n_tokens: max_new_tokens }, ..ppo })
            }
            Self::Dapo => (Estimator::Grpo, LossOptions { clip_high: 0.28, average: Average::Token, ..ppo }),
            Self::Gspo => {
                (Estimator::Grpo, LossOptions { objective: Objective::Gspo, clip_low: 3e-4, clip_high: 4e-4, ..ppo })
            }
            Self::Cispo => {
                let (clip_low, clip_high) = (1.0, 4.0);
                let average = Average::Token;
                (Estimator::Grpo, LossOptions { objective: Objective::Cispo, clip_low, clip_high, average, ..ppo })
            }
            Self::Sapo => (Estimator::Grpo, LossOptions { objective: Objective::SAPO, ..ppo }),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|method| method.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::InvalidInput, "unknown method")
                .got(format!("{text:?}"))
                .needed(format!("one of {known}"))
        })
    }
}
