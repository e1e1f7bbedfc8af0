//! What functions are computed on: one number, or a browser's vector of four.

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
pub(crate) type Vector = four::Four;

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
mod four {
    use core::arch::wasm32::{
        f32x4, f32x4_abs, f32x4_add, f32x4_convert_i32x4, f32x4_div, f32x4_lt, f32x4_mul, f32x4_neg, f32x4_pmax,
        f32x4_pmin, f32x4_splat, f32x4_sqrt, f32x4_sub, i32x4_add, i32x4_shl, i32x4_shr, i32x4_splat, i32x4_sub,
        u32x4_shr, v128, v128_and, v128_load, v128_or, v128_store,
    };
    use core::ops::{Add, Div, Mul, Neg, Sub};

    use super::{Fourfold, Number, ROUNDER};

    /// A browser's vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Four(v128);

    impl Four {
        /// This number everywhere.
        #[inline(always)]
        pub(crate) fn splat(x: f32) -> Self {
            Self(f32x4_splat(x))
        }

        #[inline(always)]
        pub(crate) fn load(x: &[f32; 4]) -> Self {
            // SAFETY: there are sixteen bytes; WebAssembly needs no alignment.
            Self(unsafe { v128_load(x.as_ptr().cast()) })
        }

        #[inline(always)]
        pub(crate) fn store(self, x: &mut [f32; 4]) {
            // SAFETY: as for `load`.
            unsafe { v128_store(x.as_mut_ptr().cast(), self.0) };
        }
    }

    macro_rules! operator {
        ($($trait:ident $name:ident $instruction:ident),*) => {$(
            impl $trait for Four {
                type Output = Self;
                #[inline(always)]
                fn $name(self, other: Self) -> Self {
                    Self($instruction(self.0, other.0))
                }
            }
        )*};
    }
    operator!(Add add f32x4_add, Sub sub f32x4_sub, Mul mul f32x4_mul, Div div f32x4_div);

    impl Neg for Four {
        type Output = Self;
        #[inline(always)]
        fn neg(self) -> Self {
            Self(f32x4_neg(self.0))
        }
    }

    impl Number for Four {
        /// Loaded where it is used. In the code Chromium would put it together by three instructions, and by as many again in each
        /// turn of a loop, for there are more of them than registers.
        #[inline(always)]
        fn constant(x: &'static Fourfold) -> Self {
            // SAFETY: it is sixteen bytes, aligned as a vector is.
            Self(unsafe { core::ptr::read_volatile(core::ptr::from_ref(x).cast()) })
        }

        #[inline(always)]
        fn fused(self, factor: Self, addend: Self) -> Self {
            #[cfg(target_feature = "relaxed-simd")]
            return Self(core::arch::wasm32::f32x4_relaxed_madd(self.0, factor.0, addend.0));
            #[cfg(not(target_feature = "relaxed-simd"))]
            return self * factor + addend;
        }

        // `pmax(a, b)` is `b` where that is larger, otherwise `a`.
        #[inline(always)]
        fn larger(self, other: Self) -> Self {
            Self(f32x4_pmax(other.0, self.0))
        }

        #[inline(always)]
        fn smaller(self, other: Self) -> Self {
            Self(f32x4_pmin(other.0, self.0))
        }

        #[inline(always)]
        fn where_less(self, other: Self, then: Self, otherwise: Self) -> Self {
            let less = f32x4_lt(self.0, other.0);
            // All bits of a mask's lane are alike, so that engines may look at whichever they like.
            #[cfg(target_feature = "relaxed-simd")]
            return Self(core::arch::wasm32::i32x4_relaxed_laneselect(then.0, otherwise.0, less));
            #[cfg(not(target_feature = "relaxed-simd"))]
            Self(core::arch::wasm32::v128_bitselect(then.0, otherwise.0, less))
        }

        #[inline(always)]
        fn absolute(self) -> Self {
            Self(f32x4_abs(self.0))
        }

        #[inline(always)]
        fn square_root(self) -> Self {
            Self(f32x4_sqrt(self.0))
        }

        #[inline(always)]
        fn powers_of_two(self) -> [Self; 2] {
            let power = |n: v128| {
                Self(i32x4_shl(i32x4_add(n, Self::constant(const { &Fourfold::of(f32::from_bits(127)) }).0), 23))
            };
            let whole = i32x4_sub(self.0, Self::constant(const { &Fourfold::of(ROUNDER) }).0);
            let half = i32x4_shr(whole, 1);
            [power(half), power(i32x4_sub(whole, half))]
        }

        #[inline(always)]
        fn times_power_of_two(self, shifted: Self) -> Self {
            Self(i32x4_add(self.0, i32x4_shl(shifted.0, 23)))
        }

        #[inline(always)]
        fn fraction_and_exponent(self) -> [Self; 2] {
            let exponent = i32x4_sub(v128_and(u32x4_shr(self.0, 23), i32x4_splat(0xff)), i32x4_splat(126));
            let fraction = v128_or(v128_and(self.0, i32x4_splat(0x7f_ffff)), i32x4_splat(0x3f00_0000));
            [Self(fraction), Self(f32x4_convert_i32x4(exponent))]
        }

        #[inline(always)]
        fn map_in_place(values: &mut [f32], f: impl Fn(Self) -> Self) {
            let (whole, rest) = values.as_chunks_mut::<4>();
            for x in whole {
                f(Self::load(x)).store(x);
            }
            map_rest(rest, f);
        }

        #[inline(always)]
        fn map(x: &[f32], out: &mut [f32], f: impl Fn(Self) -> Self) {
            let (whole, rest) = x.as_chunks::<4>();
            let (out, out_rest) = out.as_chunks_mut::<4>();
            for (y, x) in out.iter_mut().zip(whole) {
                f(Self::load(x)).store(y);
            }
            out_rest.copy_from_slice(rest);
            map_rest(out_rest, f);
        }
    }

    /// Fewer than four numbers, by the same instructions, so that a result does not depend on its place.
    #[inline(always)]
    fn map_rest(rest: &mut [f32], f: impl Fn(Four) -> Four) {
        for x in rest {
            let mut one = [0.0; 4];
            f(Four(f32x4(*x, 0.0, 0.0, 0.0))).store(&mut one);
            *x = one[0];
        }
    }
}
