//! Writes attention for one head size, for software adapters: an invocation answers some queries of one head and keeps
//! them and their results in variables of their own, so that a key or a value is loaded once for all of them and nothing
//! else is. Keys pass four at a time and the softmax is kept online. No workgroup memory, no barriers.

/// The kernel's entry point for heads of so many times four elements and so many queries an invocation; the preludes of
/// `heads.wgsl` and `heads_vec4.wgsl` come before it.
pub(super) fn source(quads: u32, queries: u32) -> String {
    let mut text = "
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
    let width = p.heads * p.d;
    let k_width = p.kv_heads * p.d;
    let first = batch * p.sq * width + head * p.d;
    let k_head = batch * p.sk * k_width + shared_head(head) * p.d;
    let q_last = p.sq - 1u;
"
    .to_owned();
    text += &format!("    let query = g % p.tiles * {queries}u;\n");
    for i in 0..queries {
        text += &format!("    let limit{i} = seen(query + {i}u);\n");
    }
    text += &format!("    let end = limit{};\n    let k_last = end - 1u;\n", queries - 1);
    for i in 0..queries {
        text += &format!("    let at{i} = first + min(query + {i}u, q_last) * width;\n");
        text += &format!("    var most{i} = LOWEST;\n    var weight{i} = 0.0;\n");
        for quad in 0..quads {
            text += &format!("    let q{i}_{quad} = q_quad(at{i}, {quad}u);\n    var y{i}_{quad} = vec4f(0.0);\n");
        }
    }
    text += "    for (var key = 0u; key < end; key += 4u) {\n";
    for j in 0..4 {
        text += &format!("        let key{j} = k_head + min(key + {j}u, k_last) * k_width;\n");
    }
    for i in 0..queries {
        text += &format!("        var s{i} = vec4f(0.0);\n");
    }
    for quad in 0..quads {
        for j in 0..4 {
            text += &format!("        let k{j}_{quad} = k_quad(key{j}, {quad}u);\n");
        }
        for i in 0..queries {
            let dots: Vec<String> = (0..4).map(|j| format!("dot(q{i}_{quad}, k{j}_{quad})")).collect();
            text += &format!("        s{i} += vec4f({});\n", dots.join(", "));
        }
    }
    for i in 0..queries {
        // Keys that are not seen have the lowest score, which does not change the largest.
        text += &format!(
            "        s{i} = biased(s{i}, batch, head, query + {i}u, key, limit{i});
        let more{i} = max(most{i}, largest(s{i}));
        let factor{i} = exp(most{i} - more{i});
        let e{i} = weighed(s{i}, more{i}, key, limit{i});
        weight{i} = weight{i} * factor{i} + total(e{i});
        most{i} = more{i};
"
        );
    }
    for quad in 0..quads {
        for j in 0..4 {
            text += &format!("        let v{j}_{quad} = v_quad(key{j}, {quad}u);\n");
        }
        for i in 0..queries {
            let shares: Vec<String> =
                ["x", "y", "z", "w"].iter().zip(0..4).map(|(c, j)| format!("share(e{i}.{c}, v{j}_{quad})")).collect();
            text += &format!("        y{i}_{quad} = y{i}_{quad} * factor{i} + {};\n", shares.join(" + "));
        }
    }
    text += "    }\n";
    for i in 0..queries {
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
