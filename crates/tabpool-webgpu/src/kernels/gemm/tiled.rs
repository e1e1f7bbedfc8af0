//! Writes GEMMs with tiles in workgroup memory, for adapters that have such memory: real GPUs.
//!
//! Two buffers of each operand take turns: while one is computed with, the elements of the next step are on their way into
//! registers, and one barrier a step suffices. The loop's bounds come from the uniform parameters, so every barrier is
//! in uniform control flow.

/// The shape of a workgroup's tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tile {
    /// Rows and columns of the result a workgroup makes; columns are a multiple of 16.
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    /// How many rows of `b` a step takes; a multiple of 4.
    pub(crate) depth: u32,
    /// Rows an invocation makes, of four columns each.
    pub(crate) each: u32,
}

impl Tile {
    /// The workgroup's size in x and y.
    pub(crate) fn group(self) -> (u32, u32) {
        (self.columns / 4, self.rows / self.each)
    }

    /// The bytes of workgroup memory.
    #[cfg(test)]
    pub(crate) fn memory(self) -> u32 {
        2 * 4 * self.depth * (self.rows + self.columns)
    }
}

/// The kernel's entry point; the preludes come before it.
pub(super) fn source(tile: Tile) -> String {
    let Tile { rows, columns, depth, each } = tile;
    let (x, y) = tile.group();
    let (threads, depth_quads, column_quads) = (x * y, depth / 4, columns / 4);
    let (a_size, b_size) = (rows * depth_quads, depth * column_quads);
    let (a_loads, b_loads) = (a_size.div_ceil(threads), b_size.div_ceil(threads));
    let mut text = format!(
        "
var<workgroup> a_tile: array<quad, {}>;
var<workgroup> b_tile: array<quad, {}>;

// Four elements of `a` on their way into element `i` of its tile.
fn incoming_a(row_from: u32, step: u32, i: u32) -> quad {{
    let turn = step * {depth_quads}u + i % {depth_quads}u;
    if (turn >= (p.k + 3u) / 4u) {{ return quad(0.0); }}
    return row_step(row_start(min(row_from + i / {depth_quads}u, p.m - 1u)), turn);
}}

fn incoming_b(column_from: u32, step: u32, i: u32) -> quad {{
    let k = step * {depth}u + i / {column_quads}u;
    if (k >= (p.k + 3u) / 4u * 4u) {{ return quad(0.0); }}
    return b_quad(b_start(column_from + i % {column_quads}u * 4u) + k * 4u);
}}

@compute @workgroup_size({x}, {y})
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_id) local: vec3u,
    @builtin(local_invocation_index) index: u32,
) {{
    let row_from = group.y * {rows}u;
    let column_from = group.x * {columns}u;
    let steps = (p.k + {}u) / {depth}u;
",
        2 * a_size,
        2 * b_size,
        depth - 1
    );
    for r in 0..each {
        text += &format!("    var s{r} = vec4f(0.0);\n");
    }
    text += &first_step("a", "row_from", a_size, threads);
    text += &first_step("b", "column_from", b_size, threads);
    text += "    workgroupBarrier();\n    for (var step = 0u; step < steps; step++) {\n        let half = step % 2u;\n";
    // Past the last step zeros come in, which nobody reads.
    for (name, loads, from) in [("a", a_loads, "row_from"), ("b", b_loads, "column_from")] {
        for load in 0..loads {
            let i = load * threads;
            text += &format!("        let next_{name}{load} = incoming_{name}({from}, step + 1u, index + {i}u);\n");
        }
    }
    text += &format!("        for (var quad = 0u; quad < {depth_quads}u; quad++) {{\n");
    for k in 0..4 {
        text += &format!(
            "            let b{k} = b_tile[half * {b_size}u + (quad * 4u + {k}u) * {column_quads}u + local.x];\n"
        );
    }
    for r in 0..each {
        text += &format!(
            "            let a{r} = a_tile[half * {a_size}u + (local.y * {each}u + {r}u) * {depth_quads}u + quad];
            s{r} = s{r} + widened(a{r}.x * b0 + a{r}.y * b1 + a{r}.z * b2 + a{r}.w * b3);\n"
        );
    }
    text += "        }\n";
    for (name, loads, size) in [("a", a_loads, a_size), ("b", b_loads, b_size)] {
        for load in 0..loads {
            let i = load * threads;
            let store = format!("{name}_tile[(1u - half) * {size}u + index + {i}u] = next_{name}{load};");
            text += &guarded("        ", size, threads, i, &store);
        }
    }
    text += "        workgroupBarrier();\n    }\n";
    for r in 0..each {
        text += &format!("    finish(row_from + local.y * {each}u + {r}u, column_from + local.x * 4u, s{r});\n");
    }
    text + "}\n"
}

/// Brings the first step's elements of an operand into the first half of its tile.
fn first_step(name: &str, from: &str, size: u32, threads: u32) -> String {
    let line = |i: u32| {
        let line = format!("{name}_tile[index + {i}u] = incoming_{name}({from}, 0u, index + {i}u);");
        guarded("    ", size, threads, i, &line)
    };
    (0..size.div_ceil(threads)).map(|load| line(load * threads)).collect()
}

/// A line, under a condition where the tile has fewer elements left than there are invocations.
fn guarded(indent: &str, size: u32, threads: u32, from: u32, line: &str) -> String {
    if size - from >= threads {
        format!("{indent}{line}\n")
    } else {
        format!("{indent}if (index + {from}u < {size}u) {{ {line} }}\n")
    }
}
