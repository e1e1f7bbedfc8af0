// Prelude: elementwise functions, chosen by an override so that each pipeline keeps one of them. The numbers are those
// of `activation.rs`.

// The error function as an odd rational function, within a few units in the last place over all of f32. It needs no
// exponential, which software adapters are slow at.
fn erf_of(v: vec4f) -> vec4f {
    let x = clamp(v, vec4f(-4.0), vec4f(4.0));
    let s = x * x;
    var p = s * -2.72614225801306e-10 + 2.77068142495902e-08;
    p = p * s - 2.10102402082508e-06;
    p = p * s - 5.69250639462346e-05;
    p = p * s - 7.34990630326855e-04;
    p = p * s - 2.95459980854025e-03;
    p = p * s - 1.60960333262415e-02;
    var q = s * -1.45660718464996e-05 - 2.13374055278905e-04;
    q = q * s - 1.68282697438203e-03;
    q = q * s - 7.37332916720468e-03;
    q = q * s - 1.42647390514189e-02;
    return x * p / q;
}

// The hyperbolic tangent likewise; the built-in one may overflow for large operands.
fn tanh_of(v: vec4f) -> vec4f {
    let x = clamp(v, vec4f(-7.90531110763549805), vec4f(7.90531110763549805));
    let s = x * x;
    var p = s * -2.76076847742355e-16 + 2.00018790482477e-13;
    p = p * s - 8.60467152213735e-11;
    p = p * s + 5.12229709037114e-08;
    p = p * s + 1.48572235717979e-05;
    p = p * s + 6.37261928875436e-04;
    p = p * s + 4.89352455891786e-03;
    var q = s * 1.19825839466702e-06 + 1.18534705686654e-04;
    q = q * s + 2.26843463243900e-03;
    q = q * s + 4.89352518554385e-03;
    return x * p / q;
}

fn sigmoid_of(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(min(-x, vec4f(88.0))));
}

override FUNCTION: u32 = 0u;

fn activate(x: vec4f) -> vec4f {
    if (FUNCTION == 1u) { return 0.5 * x * (1.0 + erf_of(x * 0.70710678118654752)); }
    if (FUNCTION == 2u) { return 0.5 * x * (1.0 + tanh_of(0.79788456080286536 * (x + 0.044715 * x * x * x))); }
    if (FUNCTION == 3u) { return max(x, vec4f(0.0)); }
    if (FUNCTION == 4u) { return tanh_of(x); }
    if (FUNCTION == 5u) { return sigmoid_of(x); }
    if (FUNCTION == 6u) { return x * sigmoid_of(x); }
    if (FUNCTION == 7u) { return erf_of(x); }
    if (FUNCTION == 8u) { return exp(x); }
    if (FUNCTION == 9u) { return sqrt(x); }
    if (FUNCTION == 10u) { return -x; }
    if (FUNCTION == 11u) { return abs(x); }
    if (FUNCTION == 12u) { return x * sigmoid_of(1.702 * x); }
    if (FUNCTION == 13u) { return log(x); }
    if (FUNCTION == 14u) { return 1.0 / x; }
    return x;
}
