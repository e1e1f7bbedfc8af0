//! Products by quarters beside the plain ones and beside sums in 64 bits.

use core::sync::atomic::AtomicU32;
use std::vec;
use std::vec::Vec;

use super::{Product, Right, Size, columns_alike, packed_right_len};
use crate::isa::Isa;
use crate::layout::Axes;
use crate::math::Function;
use crate::step::{Kernel, MAX_OPERANDS, Scratch, Span, Step};
use crate::team::{Park, Team};
use crate::weights::{Rows, Stored, pack};

/// There is nobody to wait for.
struct Alone;

impl Park for Alone {
    fn wait(&self, _: &AtomicU32, _: u32, _: u32) {}
    fn wake(&self, _: &AtomicU32) {}
    fn gives_up(&self) -> bool {
        false
    }
    fn micros(&self) -> u32 {
        0
    }
}

/// Numbers between -1 and 1 that look like chance.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Layer {
    size: Size,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Layer {
    fn new(size: Size) -> Self {
        let Size { m, k, n } = size;
        let [x, weight] = [(m * k, 1), (n * k, 2)].map(|(count, seed)| numbers(count, seed));
        let [bias, residual] = [(n, 3), (m * n, 4)].map(|(count, seed)| numbers(count, seed));
        Self { size, x, weight, bias, residual }
    }

    fn panels(&self, isa: Isa) -> Vec<f32> {
        let (tile, Size { k, n, .. }) = (isa.tile(), self.size);
        let mut panels = vec![0.0f32; packed_right_len(tile, k, n)];
        let bytes: Vec<u8> = self.weight.iter().flat_map(|x| x.to_le_bytes()).collect();
        pack(tile, Stored::F32, &bytes, 0, Rows::Of(k), &mut panels);
        panels
    }

    /// The result in `f32`, cut for so many threads but computed by one.
    fn product(&self, isa: Isa, threads: usize, quartered: bool) -> Vec<f32> {
        let (tile, Size { m, n, .. }) = (isa.tile(), self.size);
        let mut product = Product::new(tile, self.size, Axes::NONE, Right::Packed, Function::Relu, threads);
        assert!(product.quartered, "it is of a size that pays");
        product.quartered = quartered;
        let panels = self.panels(isa);
        let mut operands = [Span::NONE; MAX_OPERANDS];
        for (span, values) in operands.iter_mut().zip([&self.x, &panels, &self.bias, &self.residual]) {
            *span = Span { address: values.as_ptr().expose_provenance(), len: values.len() };
        }
        let mut out = vec![0.0f32; m * n];
        let span = Span { address: out.as_mut_ptr().expose_provenance(), len: out.len() };
        let mut step = Step::new(Kernel::Product(product), operands, span, threads);
        let lane_len = step.lane_len(tile);
        let mut lane = vec![f32::NAN; lane_len];
        step.set_scratch(Scratch { address: lane.as_mut_ptr().expose_provenance(), lane_len });
        // SAFETY: the step's memory lives as long as this function, its result is nobody else's, and there is one thread.
        let led = unsafe { Team::new().lead(isa, &[step], &Alone) };
        led.expect("there is no helper to lose");
        out
    }

    fn row_in_f64(&self, row: usize) -> Vec<f64> {
        let Size { k, n, .. } = self.size;
        let x = &self.x[row * k..][..k];
        let sum = |w: &[f32]| -> f64 { x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum() };
        let sums = self.weight.chunks_exact(k).zip(&self.bias).map(|(w, &bias)| (sum(w) + f64::from(bias)).max(0.0));
        sums.zip(&self.residual[row * n..]).map(|(sum, &residual)| sum + f64::from(residual)).collect()
    }
}

#[test]
fn products_by_quarters_are_right_whatever_is_left_over() {
    // Halves of whole tiles and not, an odd row, steps in one chunk and in several, one of them short, several blocks of rows, and
    // so many that only one row is left for the last.
    for (m, k, n) in [(48, 128, 64), (97, 130, 128), (128, 384, 192), (61, 1542, 64), (490, 142, 64), (6961, 128, 64)] {
        let layer = Layer::new(Size { m, k, n });
        for (isa, threads) in Isa::all().flat_map(|isa| [(isa, 1), (isa, 3)]) {
            let worst = |quartered| {
                let got = layer.product(isa, threads, quartered);
                let rows = (0..m).flat_map(|row| layer.row_in_f64(row));
                rows.zip(&got).map(|(want, &got)| (f64::from(got) - want).abs()).fold(0.0, f64::max)
            };
            let (plain, quartered) = (worst(false), worst(true));
            // Measured: 0.9 to 2.7 times.
            let told = std::format!("{} {m}x{k}x{n} on {threads}: {quartered:.1e} and {plain:.1e}", isa.name());
            assert!(plain < 2e-6 * (k as f64).sqrt(), "{told}");
            assert!(quartered < 4.0 * plain, "{told}");
        }
    }
}

#[test]
fn a_row_unlike_its_partner_goes_the_plain_way_and_changes_no_other() {
    let size = Size { m: 96, k: 256, n: 64 };
    let (row, partner) = (10, 58);
    for isa in Isa::all() {
        for strange in [f32::NAN, f32::INFINITY, 1e30, 20.0] {
            let mut layer = Layer::new(size);
            let undisturbed = layer.product(isa, 1, false);
            layer.x[row * size.k + 77] = strange;
            let got = layer.product(isa, 1, true);
            let plain = layer.product(isa, 1, false);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&plain), "{strange} is too large to share sums with");
            let partner = partner * size.n..(partner + 1) * size.n;
            assert_eq!(bits(&got[partner.clone()]), bits(&undisturbed[partner]));
        }
    }
}

#[test]
fn rows_that_are_alike_share_sums() {
    let layer = Layer::new(Size { m: 96, k: 256, n: 64 });
    for isa in Isa::all() {
        assert_ne!(layer.product(isa, 1, true), layer.product(isa, 1, false), "their rounding errors differ");
    }
}

#[test]
fn columns_may_be_added_unless_one_is_unlike_its_partner() {
    let size = Size { m: 48, k: 130, n: 128 };
    for isa in Isa::all() {
        let alike = |layer: &Layer| columns_alike(isa, &layer.panels(isa), size.k);
        assert!(alike(&Layer::new(size)));
        let across = isa.tile().columns;
        for column in [0, 1, across - 1, across, size.n - 1] {
            let partner = if column / across % 2 == 0 { column + across } else { column - across };
            for strange in [1e-3, 1e3, 0.0, f32::INFINITY, f32::NAN] {
                let mut layer = Layer::new(size);
                layer.weight[column * size.k..][..size.k].iter_mut().for_each(|w| *w *= strange);
                assert!(!alike(&layer), "{}: column {column} by {strange}", isa.name());
                layer.weight[partner * size.k..][..size.k].iter_mut().for_each(|w| *w *= strange);
                assert_eq!(alike(&layer), strange.is_finite(), "{}: columns {column} and {partner}", isa.name());
            }
        }
    }
}

#[test]
fn a_small_column_is_lost_where_it_is_added_to_a_large_one() {
    let size = Size { m: 48, k: 130, n: 64 };
    for isa in Isa::all() {
        let mut layer = Layer::new(size);
        layer.bias.fill(0.0);
        layer.residual.fill(0.0);
        let large = 0..isa.tile().columns;
        layer.weight[..large.end * size.k].iter_mut().for_each(|w| *w *= 1e6);
        let worst = |quartered| {
            let got = layer.product(isa, 1, quartered);
            let rows = (0..size.m).flat_map(|row| layer.row_in_f64(row));
            let errors = rows.zip(&got).enumerate().filter(|(at, _)| !large.contains(&(at % size.n)));
            errors.map(|(_, (want, &got))| (f64::from(got) - want).abs()).fold(0.0, f64::max)
        };
        assert!(worst(false) < 1e-5 && worst(true) > 1e-2, "{}: {} and {}", isa.name(), worst(false), worst(true));
    }
}
