//! Which vector instructions the processor has, and functions compiled once for each level of them.
//!
//! A program is compiled for the oldest processor it may meet. Functions made by `vectorised!` are compiled again with
//! the features of newer ones, and the level found at start says which copy is called; LLVM vectorises the same source
//! in each copy. WebAssembly has one level a build: a module is made once with `simd128` and once with relaxed SIMD.

/// A level of vector instructions that this processor was seen to have. Only [`Isa::detect`] makes one above the
/// baseline, so holding one is proof that its functions may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

impl Isa {
    /// The best level this processor has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512bw")
            {
                return Isa(Level::Avx512);
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                return Isa(Level::Avx2);
            }
        }
        Isa(Level::Baseline)
    }

    /// Every level this processor has, the plainest first, for tests and benchmarks.
    pub fn all() -> impl Iterator<Item = Self> {
        let best = Self::detect();
        #[cfg(target_arch = "x86_64")]
        let (middle, top) = (
            (best.0 == Level::Avx512 && std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"))
                .then_some(Isa(Level::Avx2)),
            (best.0 != Level::Baseline).then_some(best),
        );
        #[cfg(not(target_arch = "x86_64"))]
        let (middle, top) = (None, (best.0 != Level::Baseline).then_some(best));
        [Some(Isa(Level::Baseline)), middle, top].into_iter().flatten()
    }

    /// The level's name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            Level::Baseline if cfg!(target_feature = "relaxed-simd") => "relaxed-simd",
            Level::Baseline if cfg!(target_feature = "simd128") => "simd128",
            Level::Baseline if cfg!(target_arch = "x86_64") => "SSE2",
            Level::Baseline if cfg!(target_arch = "aarch64") => "NEON",
            Level::Baseline => "scalar",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512(self) -> bool {
        self.0 == Level::Avx512
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx2(self) -> bool {
        self.0 == Level::Avx2
    }
}

/// Defines a function that takes an [`Isa`] first and runs a copy of its body compiled for that level. What the body
/// calls must be `#[inline(always)]` to be compiled for the level too.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        // Browsers compile a function well once it has run for a while, and the time that takes grows faster than its
        // length: one function with every kernel in it is still being compiled while the first run is computed.
        #[cfg_attr(target_family = "wasm", inline(never))]
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if isa.has_avx512() {
                    // SAFETY: an `Isa` names only what this processor was seen to have.
                    return unsafe { avx512($($arg),*) };
                }
                if isa.has_avx2() {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            let _ = isa;
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;
