// Prelude: positions in a grid of workgroups that was folded over y because x holds at most 65535 of them.

fn folded(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}
