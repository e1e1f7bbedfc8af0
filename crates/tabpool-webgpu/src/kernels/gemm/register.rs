//! Writes GEMMs with a register tile for each invocation and no workgroup memory.
//!
//! They are what software adapters run fastest: those execute a workgroup's invocations as the lanes of a vector, pay for
//! every load lane by lane and for every barrier with all that lives across it. What counts there is products for each
//! element loaded, so tiles are as large as the compiler bears: lavapipe takes 32 by 16 with accumulators in memory,
//! SwiftShader's code is fastest where it stays within the instruction cache, which 16 by 8 with two rows of `b` at a time
//! does, or with fewer loads at 32 by 16: that depends on the machine below it. Still larger ones are little faster there, and
//! take compilers many times as long.
//!
//! The text is written here because compilers there do not turn arrays of accumulators into registers. Each accumulator
//! takes all products of a step in turn, so that it is loaded and stored once a step where it does not fit a register.

/// The shape of a tile and of the work around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tile {
    /// Rows and columns of the result an invocation makes; columns are 4, 8 or 16.
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    /// Rows of `b` that one turn of the loop takes: 1, 2 or 4.
    pub(crate) steps: u32,
    /// The workgroup's size in columns and rows of tiles.
    pub(crate) group: (u32, u32),
}

/// The kernel's entry point; the preludes come before it.
pub(super) fn source(tile: Tile) -> String {
    let Tile { rows, columns, steps, group } = tile;
    let quads = columns / 4;
    let mut text = format!(
        "
@compute @workgroup_size({}, {})
fn main(@builtin(global_invocation_id) id: vec3u) {{
    let row = id.y * {rows}u;
    let column = id.x * {columns}u;
    if (row >= p.m || column >= p.n) {{ return; }}
    let last = p.m - 1u;
",
        group.0, group.1
    );
    for r in 0..rows {
        text += &format!("    let r{r} = row_start(min(row + {r}u, last));\n");
        for q in 0..quads {
            text += &format!("    var s{r}_{q} = vec4f(0.0);\n");
        }
    }
    text += &format!(
        "    let turns = (p.k + {0}u) / {steps}u;
    var at = b_start(column);
    for (var turn = 0u; turn < turns; turn++) {{
",
        steps - 1
    );
    for k in 0..steps {
        for q in 0..quads {
            text += &format!("        let b{k}_{q} = b_quad(at + {}u);\n", k * 4 + q);
        }
    }
    for r in 0..rows {
        text += &format!("        let a{r} = row_step(r{r}, turn);\n");
        for q in 0..quads {
            let products: Vec<String> = (0..steps).map(|k| format!("a{r}{} * b{k}_{q}", component(steps, k))).collect();
            text += &format!("        s{r}_{q} = s{r}_{q} + widened({});\n", products.join(" + "));
        }
    }
    text += &format!("        at += {}u;\n    }}\n", steps * 4);
    text + &finish(rows, quads)
}

/// Which component of what `row_step` gives belongs to row `k` of `b`.
fn component(steps: u32, k: u32) -> &'static str {
    match (steps, k) {
        (1, _) => "",
        (_, 0) => ".x",
        (_, 1) => ".y",
        (_, 2) => ".z",
        _ => ".w",
    }
}

/// The most quads of a tile that are stored in a loop.
const MOST_LOOPED: u32 = 32;

/// Stores the tile. Small ones in a loop over an array of the accumulators, which keeps SwiftShader's code short. For such an
/// array of a large tile lavapipe's compiler takes ten seconds and more, as for the function written out for each: they
/// are stored one by one and, where a function follows, taken back from memory in a loop.
fn finish(rows: u32, quads: u32) -> String {
    let count = rows * quads;
    if count <= MOST_LOOPED {
        let sums: Vec<String> = (0..rows).flat_map(|r| (0..quads).map(move |q| format!("s{r}_{q}"))).collect();
        return format!(
            "    var sums = array<vec4f, {count}>({});
    for (var i = 0u; i < {count}u; i++) {{
        finish(row + i / {quads}u, column + i % {quads}u * 4u, sums[i]);
    }}
}}
",
            sums.join(", ")
        );
    }
    let mut text = String::new();
    for q in 0..quads {
        text += &format!("    let bias{q} = bias_quad(column + {}u);\n", q * 4);
    }
    for r in 0..rows {
        for q in 0..quads {
            text += &format!("    store(row + {r}u, column + {}u, s{r}_{q} + bias{q});\n", q * 4);
        }
    }
    text + &format!(
        "    if (refines()) {{
        for (var i = 0u; i < {count}u; i++) {{ refine(row + i / {quads}u, column + i % {quads}u * 4u); }}
    }}
}}
"
    )
}
