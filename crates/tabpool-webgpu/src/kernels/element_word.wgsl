// Prelude: kernels that move elements without looking at them, one at a time.

alias element = u32;
