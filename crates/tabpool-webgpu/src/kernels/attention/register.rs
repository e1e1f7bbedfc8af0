//! Writes attention for one head size, for software adapters: an invocation answers four queries of one head and keeps
//! them and their results in variables of their own, so that a key or a value is loaded once for four queries and nothing
//! else is. Keys pass four at a time and the softmax is kept online. No workgroup memory, no barriers.

/// Queries an invocation answers.
pub(super) const QUERIES: u32 = 4;

/// The kernel's entry point for heads of so many times four elements; the preludes of `heads.wgsl` and `heads_vec4.wgsl`
/// come before it.
pub(super) fn source(quads: u32) -> String {
    let mut text = "
fn largest(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn total(v: vec4f) -> f32 { return v.x + v.y + v.z + v.w; }

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) local: u32,
) {
    let g = folded(group, groups) * 8u + local;
    let batch = g / (p.tiles * p.heads);
    if (batch >= p.batches) { return; }
    let head = g / p.tiles % p.heads;
    let query = g % p.tiles * 4u;
    let width = p.heads * p.d;
    let first = batch * p.sq * width + head * p.d;
    let k_head = batch * p.sk * width + head * p.d;
    let q_last = p.sq - 1u;
    let k_last = p.sk - 1u;
"
    .to_owned();
    for i in 0..QUERIES {
        text += &format!("    let at{i} = first + min(query + {i}u, q_last) * width;\n");
        text += &format!("    var most{i} = LOWEST;\n    var weight{i} = 0.0;\n");
        for quad in 0..quads {
            text += &format!("    let q{i}_{quad} = q_quad(at{i}, {quad}u);\n    var y{i}_{quad} = vec4f(0.0);\n");
        }
    }
    text += "    for (var key = 0u; key < p.sk; key += 4u) {\n";
    for j in 0..4 {
        text += &format!("        let key{j} = k_head + min(key + {j}u, k_last) * width;\n");
        text += &format!("        var s{j} = vec4f(0.0);\n");
    }
    for quad in 0..quads {
        for j in 0..4 {
            text += &format!("        let k{j}_{quad} = k_quad(key{j}, {quad}u);\n");
        }
        for i in 0..QUERIES {
            let dots: Vec<String> = (0..4).map(|j| format!("dot(q{i}_{quad}, k{j}_{quad})")).collect();
            text += &format!("        s{i} += vec4f({});\n", dots.join(", "));
        }
    }
    text += "        let real = vec4u(key, key + 1u, key + 2u, key + 3u) < vec4u(p.sk);\n";
    for i in 0..QUERIES {
        // Keys past the last one repeat it, which does not change the largest.
        text += &format!(
            "        s{i} = biased(s{i}, batch, head, query + {i}u, key);
        let more{i} = max(most{i}, largest(s{i}));
        let factor{i} = exp(most{i} - more{i});
        let e{i} = select(vec4f(0.0), exp(s{i} - more{i}), real);
        weight{i} = weight{i} * factor{i} + total(e{i});
        most{i} = more{i};
"
        );
    }
    for quad in 0..quads {
        for j in 0..4 {
            text += &format!("        let v{j}_{quad} = v_quad(key{j}, {quad}u);\n");
        }
        for i in 0..QUERIES {
            let shares: Vec<String> =
                ["x", "y", "z", "w"].iter().zip(0..4).map(|(c, j)| format!("e{i}.{c} * v{j}_{quad}")).collect();
            text += &format!("        y{i}_{quad} = y{i}_{quad} * factor{i} + {};\n", shares.join(" + "));
        }
    }
    text += "    }\n";
    for i in 0..QUERIES {
        text += &format!("    if (query + {i}u < p.sq) {{\n");
        for quad in 0..quads {
            text += &format!("        store(at{i} + {}u, y{i}_{quad} / weight{i});\n", quad * 4);
        }
        text += "    }\n";
    }
    text + "}

fn store(at: u32, v: vec4f) {
    y[at] = v.x;
    y[at + 1u] = v.y;
    y[at + 2u] = v.z;
    y[at + 3u] = v.w;
}
"
}
