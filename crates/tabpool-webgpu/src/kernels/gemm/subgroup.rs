//! Writes GEMMs whose subgroups share the elements of the left operand: each invocation loads one step of a row and all of
//! them take it in turn, so a row is loaded once a subgroup instead of once an invocation.
//!
//! All invocations of a workgroup make the same rows and stay to the end, so how invocations are numbered within subgroups,
//! and how many there are, changes nothing.

/// The invocations of a workgroup, side by side along the columns.
pub(super) const WIDTH: u32 = 32;

/// The kernel's entry point for so many rows an invocation, of four columns each; the preludes come before it.
pub(super) fn source(rows: u32) -> String {
    let mut text = format!(
        "
@compute @workgroup_size({WIDTH})
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {{
    let row = group.y * {rows}u;
    let column = (group.x * {WIDTH}u + local) * 4u;
    let last = p.m - 1u;
    let turns = (p.k + 3u) / 4u;
    // A subgroup may be larger than the workgroup; its other places load nothing.
    let places = min(size, {WIDTH}u);
    var at = b_start(column);
"
    );
    for r in 0..rows {
        text += &format!("    let r{r} = row_start(min(row + {r}u, last));\n    var s{r} = vec4f(0.0);\n");
    }
    text += "    for (var turn = 0u; turn < turns; turn += places) {
        let mine = min(turn + lane, turns - 1u);
";
    for r in 0..rows {
        text += &format!("        let m{r} = row_step(r{r}, mine);\n");
    }
    text += "        let count = min(places, turns - turn);
        for (var i = 0u; i < count; i++) {
            let b0 = b_quad(at);
            let b1 = b_quad(at + 4u);
            let b2 = b_quad(at + 8u);
            let b3 = b_quad(at + 12u);
            at += 16u;
";
    for r in 0..rows {
        text += &format!(
            "            let a{r} = subgroupShuffle(m{r}, i);
            s{r} = s{r} + widened(a{r}.x * b0 + a{r}.y * b1 + a{r}.z * b2 + a{r}.w * b3);\n"
        );
    }
    text += "        }\n    }\n";
    for r in 0..rows {
        text += &format!("    finish(row + {r}u, column, s{r});\n");
    }
    text + "}\n"
}
