//! Compiled kernels, shared by all executables of a backend.
//!
//! A pipeline is known by its kernel and its overrides. Both come from finite lists in `kernels`, and shapes are
//! parameters, so the cache is bounded by the number of variants.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::kernels::Variant;

/// A pipeline with the layout its bind groups need.
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

type Key = (&'static str, Vec<(&'static str, u32)>);
type Layouts = (wgpu::BindGroupLayout, wgpu::PipelineLayout);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Pipelines {
    compiled: RefCell<HashMap<Key, Rc<Pipeline>>>,
    modules: RefCell<HashMap<&'static str, wgpu::ShaderModule>>,
    /// By the number of buffers read.
    layouts: RefCell<HashMap<u32, Layouts>>,
}

impl Pipelines {
    /// The pipeline of a variant, compiled where this is its first use. Errors go to the error scopes around the call.
    pub(crate) fn get(&self, device: &wgpu::Device, variant: &Variant) -> Rc<Pipeline> {
        let key = (variant.kernel.name, variant.constants.clone());
        if let Some(known) = self.compiled.borrow().get(&key) {
            return known.clone();
        }
        let (layout, pipeline_layout) = self.layouts(device, variant.kernel.reads);
        let module = self.module(device, variant);
        let constants: Vec<(&str, f64)> = variant.constants.iter().map(|&(n, v)| (n, f64::from(v))).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(variant.kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let compiled = Rc::new(Pipeline { pipeline, layout });
        self.compiled.borrow_mut().insert(key, compiled.clone());
        compiled
    }

    /// Forgets pipelines that did not compile, so that the next load says so again instead of using them.
    pub(crate) fn forget(&self, variants: &[&Variant]) {
        let mut compiled = self.compiled.borrow_mut();
        for v in variants {
            compiled.remove(&(v.kernel.name, v.constants.clone()));
        }
        self.modules.borrow_mut().clear();
    }

    /// How many pipelines are compiled.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.compiled.borrow().len()
    }

    fn module(&self, device: &wgpu::Device, variant: &Variant) -> wgpu::ShaderModule {
        let mut modules = self.modules.borrow_mut();
        let make = || {
            device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(variant.kernel.name),
                source: wgpu::ShaderSource::Wgsl(variant.kernel.source().into()),
            })
        };
        modules.entry(variant.kernel.name).or_insert_with(make).clone()
    }

    fn layouts(&self, device: &wgpu::Device, reads: u32) -> Layouts {
        let mut layouts = self.layouts.borrow_mut();
        layouts.entry(reads).or_insert_with(|| make_layouts(device, reads)).clone()
    }
}

fn make_layouts(device: &wgpu::Device, reads: u32) -> Layouts {
    let entry = |binding: u32| {
        let ty = match binding {
            0 => wgpu::BufferBindingType::Uniform,
            b => wgpu::BufferBindingType::Storage { read_only: b <= reads },
        };
        wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        }
    };
    let entries: Vec<_> = (0..=reads + 1).map(entry).collect();
    let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    (group, pipeline)
}
