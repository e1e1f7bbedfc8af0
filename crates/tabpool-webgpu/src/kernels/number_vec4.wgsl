// Prelude: kernels that compute with four numbers that lie side by side at once. Every size and position then counts in
// fours.

alias number = vec4f;
