// Prelude: kernels that move elements without looking at them, four that lie side by side at once. Every size, stride and
// position then counts in fours.

alias element = vec4u;
