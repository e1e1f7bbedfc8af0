//! What an adapter says of itself, for handshakes, databases and people.

/// What computes, as far as the choice of kernels goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU.
    Hardware,
    /// Google's software adapter, which Chromium falls back to.
    SwiftShader,
    /// Another software adapter, as Mesa's lavapipe.
    Software,
}

impl AdapterKind {
    /// Whether the processor computes.
    #[must_use]
    pub fn is_software(self) -> bool {
        self != AdapterKind::Hardware
    }
}

/// What an adapter says of itself. Natively and in browsers different parts are known; what is not is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterReport {
    /// The vendor: a name as in `google` in browsers, the PCI number as in `0x10005` natively.
    pub vendor: String,
    /// The family, as in `swiftshader`; browsers only.
    pub architecture: String,
    /// The device: the browser's identifier or the PCI number.
    pub device: String,
    /// The name for people.
    pub description: String,
    /// The driver and its version; natively only.
    pub driver: String,
    /// `browser-webgpu`, `vulkan`, `metal` or `dx12`.
    pub api: String,
    /// Whether the adapter computes on the processor.
    pub is_fallback: bool,
    /// Whether kernels may use f16.
    pub shader_f16: bool,
    /// Whether the adapter has subgroups, and their sizes.
    pub subgroups: Option<(u32, u32)>,
    /// The most bytes a buffer may have.
    pub max_buffer_bytes: u64,
    /// The most bytes a storage binding may span.
    pub max_storage_binding_bytes: u64,
    /// The most storage buffers a kernel may bind.
    pub max_storage_buffers: u32,
    /// The most invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// The bytes of workgroup memory.
    pub workgroup_memory_bytes: u32,
    /// The WGSL language features known to wgpu that the implementation has, by their names in the specification.
    pub wgsl_features: Vec<&'static str>,
}

impl AdapterReport {
    pub(crate) fn new(instance: &wgpu::Instance, adapter: &wgpu::Adapter, device: &wgpu::Device) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let mut report = Self {
            description: info.name.clone(),
            driver: [&*info.driver, &*info.driver_info].join(" ").trim().to_owned(),
            api: info.backend.to_str().to_owned(),
            is_fallback: info.device_type == wgpu::DeviceType::Cpu,
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            max_buffer_bytes: limits.max_buffer_size,
            max_storage_binding_bytes: limits.max_storage_buffer_binding_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            wgsl_features: wgsl_features(instance),
            ..Self::default()
        };
        report.identify(&info, device);
        report
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn identify(&mut self, info: &wgpu::AdapterInfo, _device: &wgpu::Device) {
        self.vendor = format!("{:#x}", info.vendor);
        self.device = format!("{:#x}", info.device);
    }

    #[cfg(target_arch = "wasm32")]
    fn identify(&mut self, _info: &wgpu::AdapterInfo, device: &wgpu::Device) {
        if let Some(info) = device.as_webgpu().map(|d| d.adapter_info()) {
            self.vendor = info.vendor();
            self.architecture = info.architecture();
            self.device = info.device();
            self.description = info.description();
        }
    }

    /// What computes.
    #[must_use]
    pub fn kind(&self) -> AdapterKind {
        let names = [&self.architecture, &self.description, &self.driver];
        let swiftshader = names.into_iter().any(|n| n.to_ascii_lowercase().contains("swiftshader"));
        match (self.is_fallback, swiftshader) {
            (_, true) => AdapterKind::SwiftShader,
            (true, false) => AdapterKind::Software,
            (false, false) => AdapterKind::Hardware,
        }
    }

    /// One line for people, as in `google swiftshader`.
    #[must_use]
    pub fn title(&self) -> String {
        if self.architecture.is_empty() && !self.description.is_empty() {
            return self.description.clone();
        }
        let parts = [&*self.vendor, &*self.architecture, &*self.description];
        let title = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
        if title.is_empty() { "an adapter that does not name itself".to_owned() } else { title }
    }
}

fn wgsl_features(instance: &wgpu::Instance) -> Vec<&'static str> {
    use wgpu::WgslLanguageFeatures as F;
    let has = instance.wgsl_language_features();
    [
        (F::ReadOnlyAndReadWriteStorageTextures, "readonly_and_readwrite_storage_textures"),
        (F::Packed4x8IntegerDotProduct, "packed_4x8_integer_dot_product"),
        (F::UnrestrictedPointerParameters, "unrestricted_pointer_parameters"),
        (F::PointerCompositeAccess, "pointer_composite_access"),
    ]
    .into_iter()
    .filter_map(|(feature, name)| has.contains(feature).then_some(name))
    .collect()
}
