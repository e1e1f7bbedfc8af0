//! Mel filters: from the bins of a Fourier transform to bands that are spaced as hearing is.
//!
//! `mel_filter_bank` of transformers, which follows librosa ("slaney") and torchaudio ("htk"), in f64.

/// Which formula relates hertz to mel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Linear up to 1 kHz, then logarithmic; triangles have equal area.
    Slaney,
    /// Logarithmic throughout; triangles have equal height.
    Htk,
}

impl Scale {
    fn mel(self, hertz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            Self::Slaney if hertz >= 1000.0 => 15.0 + (hertz / 1000.0).ln() * (27.0 / 6.4f64.ln()),
            Self::Slaney => 3.0 * hertz / 200.0,
        }
    }

    fn hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel >= 15.0 => 1000.0 * ((6.4f64.ln() / 27.0) * (mel - 15.0)).exp(),
            Self::Slaney => 200.0 * mel / 3.0,
        }
    }
}

/// One band: the first bin that counts, and the weights from there on.
#[derive(Clone, Debug, PartialEq)]
struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// The filters of all bands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MelFilters {
    bands: Vec<Band>,
}

impl MelFilters {
    /// Triangles over the `bins` of a transform at `rate` Hz, from `low` to `high` Hz.
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    pub(super) fn new(scale: Scale, bands: usize, bins: usize, rate: u32, (low, high): (f64, f64)) -> Self {
        let (first, last) = (scale.mel(low), scale.mel(high));
        let step = (last - first) / (bands + 1) as f64;
        let corners: Vec<f64> = (0..bands + 2).map(|i| scale.hertz(first + step * i as f64)).collect();
        // The reference spaces bins evenly up to half of the rate, in whole hertz.
        let width = f64::from(rate / 2) / (bins - 1) as f64;
        let band = |corners: &[f64]| {
            let (left, middle, right) = (corners[0], corners[1], corners[2]);
            let area = if scale == Scale::Slaney { 2.0 / (right - left) } else { 1.0 };
            let weight = |bin: usize| {
                let hertz = width * bin as f64;
                let (up, down) = ((hertz - left) / (middle - left), (right - hertz) / (right - middle));
                up.min(down).max(0.0) * area
            };
            let first = (0..bins).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
            Band { first, weights: (first..bins).map(weight).take_while(|&w| w > 0.0).collect() }
        };
        Self { bands: corners.windows(3).map(band).collect() }
    }

    /// How many bands there are.
    pub(super) fn len(&self) -> usize {
        self.bands.len()
    }

    /// The power in each band of these bins.
    pub(super) fn apply<'a>(&'a self, power: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.bands.iter().map(|band| band.weights.iter().zip(&power[band.first..]).map(|(w, p)| w * p).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::{MelFilters, Scale};

    #[test]
    fn scales_are_their_own_inverses_and_meet_at_a_kilohertz() {
        for scale in [Scale::Slaney, Scale::Htk] {
            for hertz in [0.0, 20.0, 999.0, 1000.0, 1001.0, 8000.0] {
                assert!((scale.hertz(scale.mel(hertz)) - hertz).abs() < 1e-9, "{scale:?} {hertz}");
            }
        }
        // What the definitions say: 1 kHz is 15 Slaney mel, and 1000 HTK mel to within a thousandth.
        assert!((Scale::Slaney.mel(1000.0) - 15.0).abs() < 1e-12);
        assert!((Scale::Htk.mel(1000.0) - 999.985_5).abs() < 1e-3);
    }

    #[test]
    fn bands_narrower_than_a_bin_are_empty_and_give_nothing() {
        let filters = MelFilters::new(Scale::Htk, 64, 9, 16_000, (0.0, 8000.0));
        assert_eq!(filters.len(), 64);
        let sums: Vec<f64> = filters.apply(&[1.0; 9]).collect();
        assert!(sums.contains(&0.0) && sums.iter().all(|s| *s >= 0.0));
    }
}
