//! Every variant that can be dispatched parses and validates, with nothing switched on that a browser may lack unless the
//! variant is kept for devices that have it.

use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use super::{Groups, all_variants};

#[test]
fn every_variant_is_valid_wgsl_with_its_overrides() {
    let variants = all_variants();
    assert!(variants.len() > 150, "only {} variants", variants.len());
    for v in variants {
        let source = v.kernel.source();
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("{}: {}", v.kernel.name, e.emit_to_string(&source)));
        let mut validator = Validator::new(ValidationFlags::all(), needed(&source));
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let info =
            validator.validate(&module).unwrap_or_else(|e| panic!("{}: {}", v.kernel.name, e.emit_to_string(&source)));
        let constants = v.constants.iter().map(|&(name, value)| (name.to_owned(), f64::from(value))).collect();
        naga::back::pipeline_constants::process_overrides(&module, &info, None, &constants)
            .unwrap_or_else(|e| panic!("{} with {:?}: {e}", v.kernel.name, v.constants));
    }
}

/// What the text itself says it needs.
fn needed(source: &str) -> Capabilities {
    // Reading two f16 out of a word is a part of WebGPU; naga tells it apart for OpenGL's sake.
    let mut needed = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    needed.set(Capabilities::SHADER_FLOAT16, source.starts_with("enable f16;"));
    needed.set(Capabilities::SUBGROUP, source.contains("subgroupShuffle"));
    needed
}

#[test]
fn bindings_are_where_launches_put_them() {
    for v in all_variants() {
        let module = naga::front::wgsl::parse_str(&v.kernel.source()).expect("validated elsewhere");
        let mut bound: Vec<(u32, naga::AddressSpace)> = module
            .global_variables
            .iter()
            .filter_map(|(_, g)| g.binding.as_ref().map(|b| (b.binding, g.space)))
            .collect();
        bound.sort_by_key(|b| b.0);
        let last = v.kernel.reads + 1;
        assert_eq!(bound.iter().map(|b| b.0).collect::<Vec<_>>(), (0..=last).collect::<Vec<_>>(), "{}", v.kernel.name);
        for (binding, space) in bound {
            let written = matches!(
                space,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE)
            );
            assert_eq!(written, binding == last, "{} binding {binding}", v.kernel.name);
        }
    }
}

#[test]
fn long_lines_of_workgroups_are_folded() {
    assert_eq!(Groups::Line(65_535).folded(65_535), Some([65_535, 1]));
    assert_eq!(Groups::Line(65_536).folded(65_535), Some([65_535, 2]));
    assert_eq!(Groups::Plane(65_536, 1).folded(65_535), None);
}
