//! Writes GEMMs of 8-bit integers with a register tile for each invocation and no workgroup memory: four products and
//! their sum are one `dot4I8Packed`, and every load is of 128 bits. Sums are exact; scales come in at the end.

use super::register::Tile;

/// The kernel's entry point; the preludes come before it. Of the tile's steps nothing is taken: a turn has sixteen.
pub(super) fn source(tile: Tile) -> String {
    let Tile { rows, columns, group, .. } = tile;
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
            text += &format!("    var s{r}_{q} = vec4i(0);\n");
        }
    }
    text += "    let turns = depth();
    var at = b_start(column);
    for (var turn = 0u; turn < turns; turn++) {\n";
    for k in 0..4 {
        for q in 0..quads {
            text += &format!("        let b{k}_{q} = b[at + {}u];\n", k * 4 + q);
        }
    }
    for r in 0..rows {
        text += &format!("        let a{r} = row_step(r{r}, turn);\n");
        for q in 0..quads {
            text += &format!(
                "        s{r}_{q} = s{r}_{q} + dots(a{r}.x, b0_{q}) + dots(a{r}.y, b1_{q}) + dots(a{r}.z, b2_{q}) \
                 + dots(a{r}.w, b3_{q});\n"
            );
        }
    }
    let sums: Vec<String> = (0..rows).flat_map(|r| (0..quads).map(move |q| format!("s{r}_{q}"))).collect();
    text + &format!(
        "        at += 16u;
    }}
    var sums = array<vec4i, {count}>({});
    for (var i = 0u; i < {count}u; i++) {{
        let at_most = min(row + i / {quads}u, last);
        let four = column + i % {quads}u * 4u;
        finish(row + i / {quads}u, four, vec4f(sums[i]) * (row_scale(at_most) * column_scales(four)));
    }}
}}
",
        sums.join(", "),
        count = rows * quads,
    )
}
