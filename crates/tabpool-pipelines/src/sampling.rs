//! Choosing the token that follows: from its logits, or from the likeliest of them.
//!
//! The order is that of transformers' `generate`: what is suppressed, the repetition penalty, the temperature, then top-k, top-p and
//! min-p in this order, and a draw from what is left. What is drawn depends on the seed, the text's number and the token's place in
//! it alone, so that a text that is begun again elsewhere from the tokens so far goes on as it would have.

use std::cmp::Ordering;
use std::collections::HashSet;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the likeliest one's probability; 0 for all.
    pub min_p: f32,
    /// What the logits of tokens that are in the text already are divided by, or multiplied with where they are negative; 1 for none.
    pub repetition_penalty: f32,
    /// Which of the possible texts it becomes.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// A rule about the token that follows, as speech models have for the order of times.
pub trait TokenRule: std::fmt::Debug + Send + Sync {
    /// Changes the logits of the whole vocabulary, before anything else does: negative infinity forbids a token. `said` are the
    /// tokens of the text after its prompt.
    fn apply(&self, said: &[i32], logits: &mut [f32]);
}

/// A setting outside of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{setting} is {got}; it is {range}")]
pub struct SamplingError {
    /// Which.
    pub setting: &'static str,
    /// What it is.
    pub got: f32,
    /// What it may be.
    pub range: &'static str,
}

impl Sampling {
    /// Whether the likeliest token is taken always.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Whether tokens that are in the text already are less likely, or more.
    #[must_use]
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// How many of the likeliest tokens are enough to choose from, where `suppressed` tokens are out of the question; `None` where all
    /// logits are needed.
    #[must_use]
    pub fn candidates(&self, suppressed: usize) -> Option<usize> {
        if self.penalises() {
            return None;
        }
        match (self.is_greedy(), self.top_k) {
            (true, _) => Some(1 + suppressed),
            (false, 0) => None,
            (false, k) => Some(k + suppressed),
        }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`SamplingError`] for the first that is not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, "a number from 0 on"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
        ];
        let wrong = settings.into_iter().find(|(_, got, fits, _)| !fits || !got.is_finite());
        wrong.map_or(Ok(()), |(setting, got, _, range)| Err(SamplingError { setting, got, range }))
    }

    /// Chooses among candidates, tokens with their logits, of which none needs to come first. `written` are the tokens of the
    /// text so far, `suppressed` those out of the question, in ascending order, `text` the text's number among those of a batch.
    /// `None` where there is no candidate with a logit that is a number.
    #[must_use]
    pub fn choose(
        &self,
        candidates: impl IntoIterator<Item = (i32, f32)>,
        written: &[i32],
        suppressed: &[i32],
        text: usize,
    ) -> Option<i32> {
        let possible =
            candidates.into_iter().filter(|(id, logit)| !logit.is_nan() && suppressed.binary_search(id).is_err());
        let repeated: HashSet<i32> = if self.penalises() { written.iter().copied().collect() } else { HashSet::new() };
        let penalised = possible.map(|(id, logit)| (id, self.penalised(logit, repeated.contains(&id))));
        // Of equally likely tokens the one of the smaller number comes first.
        let likelier = |a: &(i32, f32), b: &(i32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.is_greedy() {
            return penalised.min_by(likelier).map(|(id, _)| id);
        }
        let mut kept: Vec<(i32, f32)> = penalised.map(|(id, logit)| (id, logit / self.temperature)).collect();
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, likelier);
            kept.truncate(self.top_k);
        }
        kept.sort_unstable_by(likelier);
        let most = kept.first()?.1;
        if most == f32::NEG_INFINITY {
            return kept.first().map(|(id, _)| *id);
        }
        let mut shares: Vec<f64> = kept.iter().map(|(_, logit)| f64::from(logit - most).exp()).collect();
        if self.top_p < 1.0 {
            let (all, mut before) = (shares.iter().sum::<f64>(), 0.0);
            let enough = |share: &f64| {
                let wanted = before < f64::from(self.top_p) * all;
                before += share;
                !wanted
            };
            shares.truncate(shares.iter().position(enough).unwrap_or(shares.len()).max(1));
        }
        if self.min_p > 0.0 {
            // The likeliest token's share is 1.
            let few = shares.iter().position(|&share| share < f64::from(self.min_p)).unwrap_or(shares.len());
            shares.truncate(few.max(1));
        }
        let mut left = uniform(self.seed, text, written.len()) * shares.iter().sum::<f64>();
        let drawn = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        kept.get(drawn.unwrap_or(shares.len() - 1)).map(|(id, _)| *id)
    }

    fn penalised(&self, logit: f32, repeated: bool) -> f32 {
        match (repeated, logit.partial_cmp(&0.0)) {
            (false, _) => logit,
            (true, Some(Ordering::Less)) => logit * self.repetition_penalty,
            (true, _) => logit / self.repetition_penalty,
        }
    }
}

/// A number from 0 to below 1 for a place in a text: splitmix64 of the seed, and of it with the text's number and the place.
fn uniform(seed: u64, text: usize, place: usize) -> f64 {
    let mixed = mix(mix(mix(seed) ^ text as u64) ^ place as u64);
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let bits = (mixed >> 11) as f64;
    bits / (1u64 << 53) as f64
}

/// One step of splitmix64, by Sebastiano Vigna.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Sampling;

    const LOGITS: [(i32, f32); 5] = [(0, 1.0), (1, 3.0), (2, 2.0), (3, -1.0), (4, 0.5)];

    /// How often each token is chosen in many places of a text.
    fn counts(sampling: &Sampling) -> [usize; 5] {
        let mut counts = [0; 5];
        for place in 0..4000 {
            let written = vec![9; place];
            let id = sampling.choose(LOGITS, &written, &[], 0).expect("a token");
            counts[usize::try_from(id).expect("small")] += 1;
        }
        counts
    }

    #[test]
    fn without_a_temperature_the_likeliest_token_is_taken() {
        let greedy = Sampling::default();
        assert_eq!(greedy.choose(LOGITS, &[], &[], 0), Some(1));
        assert_eq!(greedy.choose(LOGITS, &[], &[1], 0), Some(2));
        let penalty = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(penalty.choose(LOGITS, &[1], &[], 0), Some(2));
        assert_eq!(penalty.choose([(3, -1.0), (5, -1.5)], &[3], &[], 0), Some(5));
        assert_eq!(greedy.choose([(7, f32::NAN)], &[], &[], 0), None);
        assert_eq!(greedy.choose([(8, 1.0), (7, 1.0)], &[], &[], 0), Some(7));
    }

    #[test]
    fn tokens_are_drawn_as_often_as_the_logits_say() {
        let counts = counts(&Sampling { temperature: 1.0, ..Sampling::default() });
        let weights: Vec<f64> = LOGITS.iter().map(|(_, logit)| f64::from(*logit).exp()).collect();
        let all: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let expected = 4000.0 * weight / all;
            assert!((*count as f64 - expected).abs() < 4.0 * expected.sqrt() + 1.0, "{counts:?}, expected {expected}");
        }
    }

    #[test]
    fn every_restriction_leaves_out_what_it_should() {
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        let kept = |sampling: Sampling| counts(&sampling).map(|count| count > 0);
        assert_eq!(kept(Sampling { top_k: 2, ..warm.clone() }), [false, true, true, false, false]);
        assert_eq!(kept(Sampling { top_k: 1, ..warm.clone() }), [false, true, false, false, false]);
        // Shares of the whole: 0.614, 0.226, 0.083, 0.050, 0.011.
        assert_eq!(kept(Sampling { top_p: 0.7, ..warm.clone() }), [false, true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 1e-6, ..warm.clone() }), [false, true, false, false, false]);
        // Shares of the likeliest one's: 1, 0.37, 0.135, 0.082, 0.018.
        assert_eq!(kept(Sampling { min_p: 0.1, ..warm.clone() }), [true, true, true, false, false]);
        assert_eq!(kept(Sampling { temperature: 0.01, ..warm }), [false, true, false, false, false]);
    }

    #[test]
    fn a_draw_depends_on_the_seed_the_text_and_the_place_alone() {
        let of = |seed, text, place| {
            let sampling = Sampling { temperature: 2.0, seed, ..Sampling::default() };
            sampling.choose(LOGITS, &vec![9; place], &[], text)
        };
        let draws = |seed, text| (0..64).map(|place| of(seed, text, place)).collect::<Vec<_>>();
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
        let mut turned = LOGITS;
        turned.reverse();
        let sampling = Sampling { temperature: 2.0, seed: 5, ..Sampling::default() };
        let given = |candidates: [(i32, f32); 5]| sampling.choose(candidates, &[1, 2], &[], 0);
        assert_eq!(given(LOGITS), given(turned), "the order of candidates");
    }

    #[test]
    fn candidates_are_enough_and_settings_have_ranges() {
        let top = Sampling { temperature: 1.0, top_k: 40, ..Sampling::default() };
        assert_eq!((top.candidates(0), top.candidates(8)), (Some(40), Some(48)));
        assert_eq!(Sampling { top_k: 0, ..top.clone() }.candidates(0), None);
        assert_eq!(Sampling { repetition_penalty: 1.1, ..top.clone() }.candidates(0), None);
        assert_eq!(Sampling::default().candidates(3), Some(4));
        assert!(top.check().is_ok());
        let said = |sampling: Sampling| sampling.check().expect_err("out of range").to_string();
        assert_eq!(said(Sampling { top_p: 0.0, ..top.clone() }), "top_p is 0; it is above 0 and at most 1");
        assert_eq!(said(Sampling { temperature: f32::NAN, ..top }), "temperature is NaN; it is a number from 0 on");
    }
}
