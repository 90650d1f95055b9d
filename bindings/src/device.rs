//! What this build and this machine can compute on.

use owlet_runtime as runtime;

use crate::error::Result;

/// Owlet's version.
#[uniffi::export]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// A device that models can be computed on.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct DeviceInfo {
    /// Short name: `CPU`, `Metal`, `Vulkan0`.
    pub name: String,
    /// What the driver calls it.
    pub description: String,
    /// What sort of device it is.
    pub kind: DeviceKind,
    /// Memory that the driver reports as free; 0 where it does not tell.
    pub memory_free_bytes: u64,
    /// Memory in all; for a CPU that of the machine.
    pub memory_total_bytes: u64,
}

/// What sort of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics processor with memory of its own.
    Gpu,
    /// A graphics processor that shares the machine's memory.
    IntegratedGpu,
    /// An accelerator used together with the processor.
    Accelerator,
    /// A device of a kind that this version does not know.
    Other,
}

/// Where a model's layers are kept and computed.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum DeviceChoice {
    /// GPUs where there are any with room for the model, else the processor. The default.
    Auto,
    /// The processor.
    Cpu,
    /// GPUs, or an error.
    Gpu,
    /// The GPU of this name, or an error.
    Named {
        /// As `DeviceInfo.name`.
        name: String,
    },
}

/// The devices of this build and machine, the preferred ones first.
#[uniffi::export]
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let info = |device: runtime::Device| DeviceInfo {
        name: device.name,
        description: device.description,
        kind: match device.kind {
            runtime::DeviceKind::Cpu => DeviceKind::Cpu,
            runtime::DeviceKind::Gpu => DeviceKind::Gpu,
            runtime::DeviceKind::IntegratedGpu => DeviceKind::IntegratedGpu,
            runtime::DeviceKind::Accelerator => DeviceKind::Accelerator,
            _ => DeviceKind::Other,
        },
        memory_free_bytes: device.memory_free_bytes,
        memory_total_bytes: device.memory_total_bytes,
    };
    Ok(runtime::devices()?.into_iter().map(info).collect())
}

/// Why a model without special wishes would be computed by the processor alone; nothing when it would not.
#[uniffi::export]
pub fn why_no_gpu() -> Result<Option<String>> {
    Ok(runtime::why_no_gpu()?.map(|reason| reason.to_string()))
}

impl From<DeviceChoice> for runtime::DeviceChoice {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::Auto => Self::Auto,
            DeviceChoice::Cpu => Self::Cpu,
            DeviceChoice::Gpu => Self::Gpu,
            DeviceChoice::Named { name } => Self::Named(name),
        }
    }
}
