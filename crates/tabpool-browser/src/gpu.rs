//! Whether this machine has a GPU that a browser can use, which decides the WebGPU adapter asked for.
//!
//! The question is answered from device nodes, without opening a graphics API: loading Vulkan in the host just to
//! choose a flag would pull a driver into a process that may never touch a GPU.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Which kind of WebGPU adapter a browser is told to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuMode {
    /// A real GPU through the platform's driver.
    Hardware,
    /// An adapter computed on the CPU: SwiftShader in the Chromium family, lavapipe under Firefox.
    Software,
}

/// What became of one render node when the machine was looked over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderNode {
    /// A GPU behind a driver, open to this user.
    Usable {
        /// The device node.
        node: PathBuf,
        /// The kernel driver, for example `amdgpu`.
        driver: String,
    },
    /// The node belongs to a driver that draws on the CPU or only scans out.
    SoftwareDriver {
        /// The device node.
        node: PathBuf,
        /// The kernel driver, for example `vgem`.
        driver: String,
    },
    /// There is a GPU, but this user may not open it.
    Forbidden {
        /// The device node.
        node: PathBuf,
        /// The kernel driver.
        driver: String,
    },
}

/// Kernel drivers whose render nodes compute nothing on a GPU. `virtio_gpu` is absent on purpose: with virgl or
/// venus it is a real GPU seen from a guest, and without them it offers no render node.
const SOFTWARE_DRIVERS: [&str; 8] =
    ["vgem", "vkms", "simple-framebuffer", "simpledrm", "bochs-drm", "cirrus", "qxl", "udl"];

/// No machine has more render nodes than this; the limit keeps a strange `/dev/dri` from costing time.
const MOST_NODES: usize = 64;

impl GpuMode {
    /// Looks for a GPU. On Linux that is a render node with a real driver that this user may open; macOS and
    /// Windows always have one that browsers use, be it integrated.
    #[must_use]
    pub fn detect() -> Self {
        if cfg!(any(target_os = "macos", target_os = "windows")) {
            return Self::Hardware;
        }
        Self::from_nodes(&render_nodes(Path::new("/dev/dri"), Path::new("/sys/class/drm")))
    }

    /// The mode that follows from these render nodes.
    #[must_use]
    pub fn from_nodes(nodes: &[RenderNode]) -> Self {
        if nodes.iter().any(|node| matches!(node, RenderNode::Usable { .. })) { Self::Hardware } else { Self::Software }
    }
}

impl fmt::Display for GpuMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
        })
    }
}

/// Lists the render nodes under `devices` (`/dev/dri`) and judges each by its driver, read from `classes`
/// (`/sys/class/drm`). An absent folder is a machine without one.
#[must_use]
pub fn render_nodes(devices: &Path, classes: &Path) -> Vec<RenderNode> {
    let Ok(entries) = fs::read_dir(devices) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("renderD"))
        .take(MOST_NODES)
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let node = devices.join(&name);
            let driver = driver_of(&classes.join(&name)).unwrap_or_else(|| "unknown".to_owned());
            if SOFTWARE_DRIVERS.contains(&driver.as_str()) {
                RenderNode::SoftwareDriver { node, driver }
            } else if File::options().read(true).write(true).open(&node).is_err() {
                RenderNode::Forbidden { node, driver }
            } else {
                RenderNode::Usable { node, driver }
            }
        })
        .collect()
}

/// The kernel names the driver by a link `device/driver` to its own folder.
fn driver_of(class: &Path) -> Option<String> {
    let target = fs::read_link(class.join("device").join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{GpuMode, RenderNode, render_nodes};

    fn add_node(root: &Path, name: &str, driver: &str) -> std::io::Result<()> {
        fs::create_dir_all(root.join("dri"))?;
        fs::write(root.join("dri").join(name), "")?;
        let device = root.join("class").join(name).join("device");
        fs::create_dir_all(&device)?;
        symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver"))
    }

    #[test]
    fn a_machine_without_nodes_computes_in_software() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let nodes = render_nodes(&root.path().join("dri"), &root.path().join("class"));
        assert_eq!(GpuMode::from_nodes(&nodes), GpuMode::Software);
        Ok(())
    }

    #[test]
    fn a_virtual_driver_is_no_gpu_and_a_real_one_is() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let (devices, classes) = (root.path().join("dri"), root.path().join("class"));
        add_node(root.path(), "renderD128", "vgem")?;
        add_node(root.path(), "card0", "amdgpu")?;
        let nodes = render_nodes(&devices, &classes);
        assert!(matches!(nodes.as_slice(), [RenderNode::SoftwareDriver { driver, .. }] if driver == "vgem"));
        assert_eq!(GpuMode::from_nodes(&nodes), GpuMode::Software);

        add_node(root.path(), "renderD129", "amdgpu")?;
        let nodes = render_nodes(&devices, &classes);
        assert!(matches!(&nodes[1], RenderNode::Usable { driver, .. } if driver == "amdgpu"));
        assert_eq!(GpuMode::from_nodes(&nodes), GpuMode::Hardware);
        Ok(())
    }

    #[test]
    fn a_node_that_cannot_be_opened_is_told_apart() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        add_node(root.path(), "renderD128", "i915")?;
        // A folder in the node's place cannot be opened for writing by anybody, root included.
        fs::remove_file(root.path().join("dri/renderD128"))?;
        fs::create_dir(root.path().join("dri/renderD128"))?;
        let nodes = render_nodes(&root.path().join("dri"), &root.path().join("class"));
        assert!(matches!(nodes.as_slice(), [RenderNode::Forbidden { driver, .. }] if driver == "i915"));
        assert_eq!(GpuMode::from_nodes(&nodes), GpuMode::Software);
        Ok(())
    }
}
