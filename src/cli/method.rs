//! Arguments of `owlet adapt` that choose its method: how rewards become advantages and those a loss.

use clap::Args;
use owlet::{
    Estimator, KlPenalty, LossOptions, Method, Objective,
    loss::{Average, KlEstimate},
};

use super::failure::{Failure, Result};

/// What the adapter is moved by. All but the method change one part of it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Method")]
pub(crate) struct MethodArgs {
    /// Advantages and loss as published: g2rpo, g2rpo_group, grpo, dr_grpo, dapo, gspo, cispo or sapo. With one update a step,
    /// gspo and sapo are grpo, and cispo is dapo
    #[arg(long, default_value_t = Method::default(), value_name = "NAME")]
    method: Method,
    /// Rewards to advantages: g2rpo, g2rpo_group, grpo, dr_grpo or rloo [default: the method's]
    #[arg(long, value_name = "NAME")]
    estimator: Option<Estimator>,
    /// What limits an update: clipped, gspo, cispo or sapo, each with the clips that it was published with. Acts from the
    /// second update of a step on [default: the method's]
    #[arg(long, value_name = "NAME")]
    loss: Option<Objective>,
    /// What the loss is the mean of: token, seq or fixed, the longest answer [default: the method's]
    #[arg(long, value_name = "NAME", value_parser = ["token", "seq", "fixed"])]
    average: Option<String>,
    /// Clip the ratio of new to old probability below 1 - this; 1 is no clip. Acts from the second update of a step on
    /// [default: the loss's]
    #[arg(long, value_name = "0..1")]
    clip_low: Option<f64>,
    /// Clip it above 1 + this [default: the loss's]
    #[arg(long, value_name = "NUMBER")]
    clip_high: Option<f64>,
    /// Limit the loss of a bad answer to this times its advantage; 0 is no limit [default: the loss's]
    #[arg(long, value_name = "0|ABOVE 1")]
    clip_dual: Option<f64>,
    /// Weight of a penalty for leaving the untrained model, such as 0.01; 0 only measures it [default: none]
    #[arg(long, value_name = "WEIGHT")]
    kl_weight: Option<f64>,
    /// How that is estimated: k1, abs, k2 or k3. The mean gradient of k1 is 0: it measures and does not hold
    #[arg(long, default_value_t = KlEstimate::default(), requires = "kl_weight", value_name = "NAME")]
    kl_estimator: KlEstimate,
}

impl MethodArgs {
    /// Advantages and loss, where answers have at most `max_new_tokens`.
    ///
    /// # Errors
    /// `InvalidInput` for a clip that the loss does not have.
    pub(crate) fn parts(&self, max_new_tokens: usize) -> Result<(Estimator, LossOptions)> {
        let (estimator, loss) = self.method.parts(max_new_tokens);
        let objective = self.loss.unwrap_or(loss.objective);
        self.check_clips(objective)?;
        let average = match self.average.as_deref() {
            Some("token") => Average::Token,
            Some("seq") => Average::Seq,
            Some(_) => Average::Fixed { n_tokens: max_new_tokens },
            None => loss.average,
        };
        // Bounds belong to the quantity that they bound: a sequence's ratio moves a thousand times less than a token's.
        let bounds = match objective == loss.objective {
            true => loss,
            false => Method::of_objective(objective).parts(max_new_tokens).1,
        };
        let loss = LossOptions {
            objective,
            clip_low: self.clip_low.unwrap_or(bounds.clip_low),
            clip_high: self.clip_high.unwrap_or(bounds.clip_high),
            clip_dual: self.clip_dual.map_or(bounds.clip_dual, |dual| (dual != 0.0).then_some(dual)),
            average,
            kl: self.kl_weight.map(|coefficient| KlPenalty { coefficient, estimate: self.kl_estimator }),
        };
        Ok((self.estimator.unwrap_or(estimator), loss))
    }

    /// What was asked for and cannot act where a step is one update, because all its ratios are 1.
    pub(crate) fn idle(&self, updates_per_step: usize) -> Option<String> {
        if updates_per_step > 1 {
            return None;
        }
        let clips = self.clips().into_iter().filter(|(_, clip)| clip.is_some()).map(|(name, _)| name.to_owned());
        let loss = self.loss.map(|loss| format!("--loss {loss}"));
        let is_of_ratios = matches!(self.method, Method::Dapo | Method::Gspo | Method::Cispo | Method::Sapo);
        let method = is_of_ratios.then(|| format!("the clip of --method {}", self.method));
        let idle: Vec<_> = method.into_iter().chain(loss).chain(clips).collect();
        (!idle.is_empty()).then(|| idle.join(", "))
    }

    fn clips(&self) -> [(&'static str, Option<f64>); 3] {
        [("--clip-low", self.clip_low), ("--clip-high", self.clip_high), ("--clip-dual", self.clip_dual)]
    }

    fn check_clips(&self, objective: Objective) -> Result<()> {
        let n_clips = match objective {
            Objective::Clipped | Objective::Gspo => 3,
            Objective::Cispo => 2,
            Objective::Sapo { .. } => 0,
        };
        match self.clips()[n_clips..].iter().find_map(|(name, clip)| clip.map(|clip| (name, clip))) {
            None => Ok(()),
            Some((name, clip)) => {
                let needed = format!("no {name}, which the loss {objective} does not have");
                Err(Failure::argument("option without effect", format!("{name} {clip}"), needed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        method: MethodArgs,
    }

    fn args(line: &str) -> Result<MethodArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("owlet").chain(line.split_whitespace())).map(|line| line.method)
    }

    #[test]
    fn clips_are_those_of_the_loss_unless_they_are_given() {
        for (line, low, high, dual) in [
            ("", 0.2, 0.3, Some(3.0)),
            ("--method grpo", 0.2, 0.2, None),
            ("--method grpo --loss clipped", 0.2, 0.2, None),
            ("--loss gspo", 3e-4, 4e-4, None),
            ("--loss gspo --clip-high 0.1 --clip-dual 2", 3e-4, 0.1, Some(2.0)),
            ("--method dapo --loss cispo", 1.0, 4.0, None),
            ("--method gspo --loss clipped", 0.2, 0.3, Some(3.0)),
            ("--clip-dual 0", 0.2, 0.3, None),
        ] {
            let (_, loss) = args(line).expect("good arguments").parts(8).expect("good options");
            assert_eq!((loss.clip_low, loss.clip_high, loss.clip_dual), (low, high, dual), "{line}");
        }
    }

    #[test]
    fn options_without_effect_are_refused() {
        assert!(args("--kl-estimator k2").is_err());
        assert!(args("--kl-estimator k2 --kl-weight 0.1").is_ok());
        for (line, name) in [
            ("--method sapo --clip-low 0.1", "--clip-low"),
            ("--loss sapo --clip-high 0.1", "--clip-high"),
            ("--method cispo --clip-dual 3", "--clip-dual"),
        ] {
            let failure = args(line).expect("good arguments").parts(8).expect_err(line);
            assert!(failure.message().is_some_and(|message| message.contains(name)), "{line}");
        }
        assert!(args("--method cispo --clip-low 0.5").expect("good arguments").parts(8).is_ok());
    }

    #[test]
    fn what_needs_a_second_update_is_told() {
        for (line, idle) in [
            ("", None),
            ("--method dr_grpo --average seq --kl-weight 0.1", None),
            ("--method gspo", Some("the clip of --method gspo")),
            ("--loss cispo --clip-high 2", Some("--loss cispo, --clip-high")),
        ] {
            let args = args(line).expect("good arguments");
            assert_eq!(args.idle(1).as_deref(), idle, "{line}");
            assert_eq!(args.idle(2), None, "{line}");
        }
    }
}
