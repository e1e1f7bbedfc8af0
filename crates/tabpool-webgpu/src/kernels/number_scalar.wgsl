// Prelude: kernels that compute with one number at a time.

alias number = f32;
