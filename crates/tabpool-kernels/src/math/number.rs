//! What functions are computed on: one number, or two of a browser's vectors.

use core::ops::{Add, Div, Mul, Neg, Sub};

/// 1.5 * 2^23: what is added to a small number becomes a whole number in the low bits of the sum.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// A number that is known when this is compiled, as a browser's vector has it in memory.
#[repr(C, align(16))]
pub(crate) struct Fourfold([f32; 4]);

impl Fourfold {
    pub(crate) const fn of(x: f32) -> Self {
        Self([x; 4])
    }

    pub(crate) const fn each<const N: usize>(numbers: [f32; N]) -> [Self; N] {
        let mut out = [const { Self::of(0.0) }; N];
        let mut n = 0;
        while n < N {
            out[n] = Self::of(numbers[n]);
            n += 1;
        }
        out
    }
}

/// A number, or several at once.
pub(crate) trait Number:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// This number everywhere; see `constant!`.
    fn constant(x: &'static Fourfold) -> Self;
    /// `self * factor + addend`, rounded once where that is faster.
    fn fused(self, factor: Self, addend: Self) -> Self;
    /// `self` where it is larger, otherwise the other.
    fn larger(self, other: Self) -> Self;
    /// `self` where it is smaller, otherwise the other.
    fn smaller(self, other: Self) -> Self;
    /// `then` where `self` is less than the other, otherwise `otherwise`.
    fn where_less(self, other: Self, then: Self, otherwise: Self) -> Self;
    fn absolute(self) -> Self;
    fn square_root(self) -> Self;
    /// Two factors whose product is two to the power that was added to [`ROUNDER`].
    fn powers_of_two(self) -> [Self; 2];
    /// `self`, a positive normal number, times two to the power that was added to [`ROUNDER`], where that is normal.
    fn times_power_of_two(self, shifted: Self) -> Self;
    /// A number of 0.5 to 1 and a power of two whose product this is, for normal positive numbers.
    fn fraction_and_exponent(self) -> [Self; 2];
    /// Applies a function to each element, in place.
    fn map_in_place(values: &mut [f32], f: impl Fn(Self) -> Self);
    /// Applies a function to each element of `x`.
    fn map(x: &[f32], out: &mut [f32], f: impl Fn(Self) -> Self);
}

/// What loops compute with on this target.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) type Vector = f32;
/// What loops compute with on this target.
#[cfg(target_arch = "wasm32")]
pub(crate) type Vector = eight::Eight;

impl Number for f32 {
    #[inline(always)]
    fn constant(x: &'static Fourfold) -> Self {
        x.0[0]
    }

    #[inline(always)]
    fn fused(self, factor: Self, addend: Self) -> Self {
        self * factor + addend
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        super::larger(self, other)
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        super::smaller(self, other)
    }

    #[inline(always)]
    fn where_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        if self < other { then } else { otherwise }
    }

    #[inline(always)]
    fn absolute(self) -> Self {
        self.abs()
    }

    #[inline(always)]
    fn square_root(self) -> Self {
        super::square_root(self)
    }

    #[inline(always)]
    fn powers_of_two(self) -> [Self; 2] {
        let power = |n: i32| f32::from_bits((n.wrapping_add(127).cast_unsigned()) << 23);
        let whole = self.to_bits().wrapping_sub(ROUNDER.to_bits()).cast_signed();
        let half = whole >> 1;
        [power(half), power(whole - half)]
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        // All of the rounder's own bits leave the word.
        f32::from_bits(self.to_bits().wrapping_add(shifted.to_bits() << 23))
    }

    #[inline(always)]
    fn fraction_and_exponent(self) -> [Self; 2] {
        let bits = self.to_bits();
        let exponent = (bits >> 23 & 0xff).cast_signed() - 126;
        #[expect(clippy::cast_precision_loss, reason = "eight bits fit")]
        [f32::from_bits(bits & 0x7f_ffff | 0x3f00_0000), exponent as f32]
    }

    #[inline(always)]
    fn map_in_place(values: &mut [f32], f: impl Fn(Self) -> Self) {
        for v in values.iter_mut() {
            *v = f(*v);
        }
    }

    #[inline(always)]
    fn map(x: &[f32], out: &mut [f32], f: impl Fn(Self) -> Self) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = f(x);
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod eight {
    use core::arch::wasm32::{
        f32x4_abs, f32x4_add, f32x4_convert_i32x4, f32x4_div, f32x4_lt, f32x4_mul, f32x4_neg, f32x4_pmax, f32x4_pmin,
        f32x4_splat, f32x4_sqrt, f32x4_sub, i32x4_add, i32x4_shl, i32x4_shr, i32x4_splat, i32x4_sub, u32x4_shr, v128,
        v128_and, v128_load, v128_or, v128_store,
    };
    use core::ops::{Add, Div, Mul, Neg, Sub};

    use super::{Fourfold, Number, ROUNDER};

    /// Two of a browser's vectors: what is loaded for one, a polynomial's coefficients above all, is there for the other, too.
    #[derive(Clone, Copy)]
    pub(crate) struct Eight([v128; 2]);

    impl Eight {
        /// Numbers of one.
        pub(crate) const WIDTH: usize = 8;

        /// This number everywhere.
        #[inline(always)]
        pub(crate) fn splat(x: f32) -> Self {
            Self([f32x4_splat(x); 2])
        }

        #[inline(always)]
        pub(crate) fn load(x: &[f32; Self::WIDTH]) -> Self {
            let x: *const v128 = x.as_ptr().cast();
            // SAFETY: there are as many bytes; WebAssembly needs no alignment.
            Self(unsafe { [v128_load(x), v128_load(x.add(1))] })
        }

        #[inline(always)]
        pub(crate) fn store(self, x: &mut [f32; Self::WIDTH]) {
            let x: *mut v128 = x.as_mut_ptr().cast();
            // SAFETY: as for `load`.
            unsafe {
                v128_store(x, self.0[0]);
                v128_store(x.add(1), self.0[1]);
            }
        }

        #[inline(always)]
        fn each(self, f: impl Fn(v128) -> v128) -> Self {
            Self([f(self.0[0]), f(self.0[1])])
        }

        #[inline(always)]
        fn with(self, other: Self, f: impl Fn(v128, v128) -> v128) -> Self {
            Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
        }
    }

    macro_rules! operator {
        ($($trait:ident $name:ident $instruction:ident),*) => {$(
            impl $trait for Eight {
                type Output = Self;
                #[inline(always)]
                fn $name(self, other: Self) -> Self {
                    self.with(other, #[inline(always)] |a, b| $instruction(a, b))
                }
            }
        )*};
    }
    operator!(Add add f32x4_add, Sub sub f32x4_sub, Mul mul f32x4_mul, Div div f32x4_div);

    impl Neg for Eight {
        type Output = Self;
        #[inline(always)]
        fn neg(self) -> Self {
            self.each(
                #[inline(always)]
                |x| f32x4_neg(x),
            )
        }
    }

    impl Number for Eight {
        /// Loaded where it is used. In the code Chromium would put it together by three instructions, and by as many again in each
        /// turn of a loop, for there are more of them than registers.
        #[inline(always)]
        fn constant(x: &'static Fourfold) -> Self {
            // SAFETY: it is sixteen bytes, aligned as a vector is.
            Self([unsafe { core::ptr::read_volatile(core::ptr::from_ref(x).cast()) }; 2])
        }

        #[inline(always)]
        fn fused(self, factor: Self, addend: Self) -> Self {
            #[cfg(target_feature = "relaxed-simd")]
            {
                use core::arch::wasm32::f32x4_relaxed_madd;
                let ([a, b], [fa, fb], [aa, ab]) = (self.0, factor.0, addend.0);
                Self([f32x4_relaxed_madd(a, fa, aa), f32x4_relaxed_madd(b, fb, ab)])
            }
            #[cfg(not(target_feature = "relaxed-simd"))]
            {
                self * factor + addend
            }
        }

        // `pmax(a, b)` is `b` where that is larger, otherwise `a`.
        #[inline(always)]
        fn larger(self, other: Self) -> Self {
            other.with(
                self,
                #[inline(always)]
                |a, b| f32x4_pmax(a, b),
            )
        }

        #[inline(always)]
        fn smaller(self, other: Self) -> Self {
            other.with(
                self,
                #[inline(always)]
                |a, b| f32x4_pmin(a, b),
            )
        }

        #[inline(always)]
        fn where_less(self, other: Self, then: Self, otherwise: Self) -> Self {
            // All bits of a mask's lane are alike, so that engines may look at whichever they like.
            #[cfg(target_feature = "relaxed-simd")]
            use core::arch::wasm32::i32x4_relaxed_laneselect as select;
            #[cfg(not(target_feature = "relaxed-simd"))]
            use core::arch::wasm32::v128_bitselect as select;
            let [a, b] = self
                .with(
                    other,
                    #[inline(always)]
                    |a, b| f32x4_lt(a, b),
                )
                .0;
            Self([select(then.0[0], otherwise.0[0], a), select(then.0[1], otherwise.0[1], b)])
        }

        #[inline(always)]
        fn absolute(self) -> Self {
            self.each(
                #[inline(always)]
                |x| f32x4_abs(x),
            )
        }

        #[inline(always)]
        fn square_root(self) -> Self {
            self.each(
                #[inline(always)]
                |x| f32x4_sqrt(x),
            )
        }

        #[inline(always)]
        fn powers_of_two(self) -> [Self; 2] {
            let exponent = Self::constant(const { &Fourfold::of(f32::from_bits(127)) });
            let power = |n: Self| n.with(exponent, |n, exponent| i32x4_shl(i32x4_add(n, exponent), 23));
            let whole = self.with(Self::constant(const { &Fourfold::of(ROUNDER) }), |a, b| i32x4_sub(a, b));
            let half = whole.each(|n| i32x4_shr(n, 1));
            [power(half), power(whole.with(half, |a, b| i32x4_sub(a, b)))]
        }

        #[inline(always)]
        fn times_power_of_two(self, shifted: Self) -> Self {
            self.with(shifted, |x, shifted| i32x4_add(x, i32x4_shl(shifted, 23)))
        }

        #[inline(always)]
        fn fraction_and_exponent(self) -> [Self; 2] {
            let exponent = |x| i32x4_sub(v128_and(u32x4_shr(x, 23), i32x4_splat(0xff)), i32x4_splat(126));
            let fraction = |x| v128_or(v128_and(x, i32x4_splat(0x7f_ffff)), i32x4_splat(0x3f00_0000));
            [self.each(fraction), self.each(|x| f32x4_convert_i32x4(exponent(x)))]
        }

        #[inline(always)]
        fn map_in_place(values: &mut [f32], f: impl Fn(Self) -> Self) {
            let (whole, rest) = values.as_chunks_mut();
            for x in whole {
                f(Self::load(x)).store(x);
            }
            map_rest(rest, f);
        }

        #[inline(always)]
        fn map(x: &[f32], out: &mut [f32], f: impl Fn(Self) -> Self) {
            let (whole, rest) = x.as_chunks();
            let (out, out_rest) = out.as_chunks_mut();
            for (y, x) in out.iter_mut().zip(whole) {
                f(Self::load(x)).store(y);
            }
            out_rest.copy_from_slice(rest);
            map_rest(out_rest, f);
        }
    }

    /// Fewer than eight numbers, by the same instructions, so that a result does not depend on its place.
    #[inline(always)]
    fn map_rest(rest: &mut [f32], f: impl Fn(Eight) -> Eight) {
        if rest.is_empty() {
            return;
        }
        let mut all = [0.0; Eight::WIDTH];
        for (all, x) in all.iter_mut().zip(&*rest) {
            *all = *x;
        }
        f(Eight::load(&all)).store(&mut all);
        for (x, all) in rest.iter_mut().zip(&all) {
            *x = *all;
        }
    }
}
