//! Devices: which there are, which of them a model goes to, and if that is no GPU, why.
//!
//! Of this only the processor was ever run in our tests: they have no GPU. What decides about GPUs is a pure function of
//! the list of devices, which is tested.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fmt,
    str::FromStr,
};

use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, backend, gguf::GgufFile};

/// A device that graphs can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
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

/// What sort of device runs a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics processor with memory of its own.
    Gpu,
    /// A graphics processor that shares the machine's memory.
    IntegratedGpu,
    /// An accelerator used together with the processor (BLAS, AMX).
    Accelerator,
    /// A device of a kind that this version does not know.
    Other,
}

impl DeviceKind {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "processor",
            Self::Gpu => "GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::Accelerator => "accelerator",
            Self::Other => "other",
        }
    }

    fn is_gpu(self) -> bool {
        matches!(self, Self::Gpu | Self::IntegratedGpu)
    }
}

/// Where a model's layers are kept and computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// GPUs where there are any with room for the model, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// GPUs, or an error.
    Gpu,
    /// The GPU of this [`Device::name`], or an error.
    Named(String),
}

impl FromStr for DeviceChoice {
    type Err = Infallible;

    /// `auto`, `cpu`, `gpu`, or the name of a device.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            _ => Self::Named(text.to_owned()),
        })
    }
}

/// Why a model is computed by the processor alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoGpu {
    /// The options say so.
    NotWanted,
    /// This build has no GPU backend.
    NotBuilt,
    /// The backends of this build found no device.
    NotFound {
        /// Their names: `Vulkan`.
        backends: Vec<String>,
    },
    /// The layers do not fit the memory that is free.
    TooLittleMemory {
        /// Memory free on all GPUs that were asked.
        free_bytes: u64,
        /// The weights of the layers for the GPU.
        needed_bytes: u64,
    },
    /// A GPU cannot multiply with weights of a type of the file.
    UnsupportedType {
        /// The GPU.
        device: String,
        /// ggml's name of the type: `IQ2_XXS`.
        dtype: String,
    },
}

impl fmt::Display for NoGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        match self {
            Self::NotWanted => f.write_str("the options keep the model on the processor"),
            Self::NotBuilt => {
                f.write_str("this build has no GPU backend (features of llama-cpp-sys-2: metal, vulkan, cuda)")
            }
            Self::NotFound { backends } => {
                write!(f, "{} found no GPU: is its driver installed?", backends.join(" and "))
            }
            Self::TooLittleMemory { free_bytes, needed_bytes } => {
                let (free, needed) = (mebibytes(*free_bytes), mebibytes(*needed_bytes));
                write!(f, "{free} MiB are free on the GPU, the weights need {needed} MiB: offload fewer layers")
            }
            Self::UnsupportedType { device, dtype } => write!(f, "{device} does not multiply with {dtype} weights"),
        }
    }
}

/// Where a model went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// GPUs that llama.cpp gives layers to; it computes single operations that they lack on the processor.
    pub gpus: Vec<String>,
    /// Layers on GPUs as they were asked for; -1 is all.
    pub gpu_layers: i32,
    /// Why there is no GPU in the list.
    pub no_gpu: Option<NoGpu>,
}

/// The devices of this build and machine, in llama.cpp's order of preference.
///
/// # Errors
/// `Backend` when llama.cpp cannot be initialised.
pub fn devices() -> Result<Vec<Device>> {
    backend::init()?;
    let kind = |kind| match kind {
        LlamaBackendDeviceType::Cpu => DeviceKind::Cpu,
        LlamaBackendDeviceType::Gpu => DeviceKind::Gpu,
        LlamaBackendDeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        LlamaBackendDeviceType::Accelerator => DeviceKind::Accelerator,
        LlamaBackendDeviceType::Unknown => DeviceKind::Other,
    };
    let devices = list_llama_ggml_backend_devices().into_iter().map(|device| Device {
        name: device.name,
        description: device.description,
        kind: kind(device.device_type),
        memory_free_bytes: device.memory_free as u64,
        memory_total_bytes: device.memory_total as u64,
    });
    Ok(devices.collect())
}

/// The GPU backends that are compiled in, whether or not they found a device: `Metal`, `Vulkan`.
///
/// # Errors
/// `Backend` when llama.cpp cannot be initialised.
pub fn gpu_backends() -> Result<Vec<String>> {
    backend::init()?;
    // SAFETY: no arguments; backends are registered once, by `init`.
    let count = unsafe { sys::ggml_backend_reg_count() };
    // SAFETY: the index is in range; names are NUL-terminated and static.
    let name = |index| unsafe { CStr::from_ptr(sys::ggml_backend_reg_name(sys::ggml_backend_reg_get(index))) };
    let names = (0..count).map(|index| name(index).to_string_lossy().into_owned());
    Ok(names.filter(|name| !["CPU", "BLAS", "RPC"].contains(&name.as_str())).collect())
}

/// Why a model without special wishes would not use a GPU on this machine; `None` when it would, as far as can be told
/// without a model.
///
/// # Errors
/// `Backend` when llama.cpp cannot be initialised.
pub fn why_no_gpu() -> Result<Option<NoGpu>> {
    Ok(place(&DeviceChoice::Auto, -1, &devices()?, &gpu_backends()?, &Demand::NONE)?.no_gpu)
}

/// Places the model of `file`.
///
/// # Errors
/// `InvalidInput` for a device that does not exist, `Unsupported` where a GPU is demanded and there is none, `Limit` where
/// its memory is too small.
pub(crate) fn place_model(choice: &DeviceChoice, gpu_layers: i32, n_layer: u32, file: &GgufFile) -> Result<Placement> {
    let devices = devices()?;
    let layers = if gpu_layers < 0 { n_layer } else { n_layer.min(gpu_layers.unsigned_abs()) };
    let share = f64::from(layers) / f64::from(n_layer.max(1));
    let bytes: u64 = file.tensors().iter().map(|tensor| tensor.n_bytes).sum();
    let lacks = |device: &str| file.tensors().iter().find(|tensor| !multiplies(device, tensor.dtype.id()));
    let demand = Demand {
        needed_bytes: (bytes as f64 * share) as u64,
        lacks: &|device| lacks(device).map(|tensor| tensor.dtype.to_string()),
    };
    place(choice, gpu_layers, &devices, &gpu_backends()?, &demand)
}

/// What a model demands of GPUs.
struct Demand<'a> {
    needed_bytes: u64,
    /// The type that the device of a name cannot multiply with.
    lacks: &'a dyn Fn(&str) -> Option<String>,
}

impl Demand<'_> {
    const NONE: Demand<'static> = Demand { needed_bytes: 0, lacks: &|_| None };
}

fn place(
    choice: &DeviceChoice,
    gpu_layers: i32,
    devices: &[Device],
    backends: &[String],
    demand: &Demand<'_>,
) -> Result<Placement> {
    let on_processor = |reason| Ok(Placement { gpus: Vec::new(), gpu_layers: 0, no_gpu: Some(reason) });
    if *choice == DeviceChoice::Cpu || gpu_layers == 0 {
        return on_processor(NoGpu::NotWanted);
    }
    let is_named = |device: &&Device| match choice {
        DeviceChoice::Named(name) => device.name.eq_ignore_ascii_case(name),
        _ => device.kind.is_gpu(),
    };
    let mut found: Vec<_> = devices.iter().filter(is_named).collect();
    if found.iter().any(|device| device.kind == DeviceKind::Gpu) {
        // As llama.cpp chooses.
        found.retain(|device| device.kind == DeviceKind::Gpu);
    }
    if let DeviceChoice::Named(name) = choice
        && !found.iter().any(|device| device.kind.is_gpu())
    {
        let names: Vec<_> = devices.iter().filter(|device| device.kind.is_gpu()).map(|device| &*device.name).collect();
        let error = Error::new(ErrorKind::InvalidInput, "no such GPU").at("device").got(name);
        let known = if names.is_empty() { "none here".to_owned() } else { names.join(", ") };
        return Err(error.needed(format!("auto, cpu, gpu or the name of a GPU: {known}")));
    }
    let free_bytes = found.iter().map(|device| device.memory_free_bytes).sum();
    let needed_bytes = demand.needed_bytes;
    let lacking = found.iter().find_map(|device| Some((device.name.clone(), (demand.lacks)(&device.name)?)));
    let reason = if found.is_empty() {
        match backends {
            [] => NoGpu::NotBuilt,
            _ => NoGpu::NotFound { backends: backends.to_vec() },
        }
    } else if let Some((device, dtype)) = lacking {
        NoGpu::UnsupportedType { device, dtype }
    } else if found.iter().all(|device| device.memory_free_bytes > 0) && free_bytes < needed_bytes {
        NoGpu::TooLittleMemory { free_bytes, needed_bytes }
    } else {
        let gpus = found.iter().map(|device| device.name.clone()).collect();
        return Ok(Placement { gpus, gpu_layers, no_gpu: None });
    };
    if *choice == DeviceChoice::Auto {
        return on_processor(reason);
    }
    let kind = match reason {
        NoGpu::TooLittleMemory { .. } => ErrorKind::Limit,
        _ => ErrorKind::Unsupported,
    };
    Err(Error::new(kind, "cannot use the GPU that was asked for").got(reason))
}

/// The devices that llama.cpp shall use for `placement`, with a NULL at the end; `None` leaves the choice to it.
pub(crate) fn handles(choice: &DeviceChoice, placement: &Placement) -> Option<Vec<sys::ggml_backend_dev_t>> {
    // It knows which of several GPUs are one and the same, seen by two drivers.
    let is_open = matches!(choice, DeviceChoice::Auto | DeviceChoice::Gpu) && !placement.gpus.is_empty();
    let list = || placement.gpus.iter().filter_map(|name| handle(name)).chain([std::ptr::null_mut()]).collect();
    (!is_open).then(list)
}

/// The device of that name.
pub(crate) fn handle(name: &str) -> Option<sys::ggml_backend_dev_t> {
    let name = CString::new(name).ok()?;
    // SAFETY: NUL-terminated; the answer is NULL for an unknown name, else lives as long as the process.
    let device = unsafe { sys::ggml_backend_dev_by_name(name.as_ptr()) };
    (!device.is_null()).then_some(device)
}

/// Whether the device of a name multiplies matrices of a type with floats.
fn multiplies(device: &str, dtype: sys::ggml_type) -> bool {
    let Some(device) = handle(device) else { return false };
    // A multiple of every type's block.
    const SIDE: i64 = 256;
    // SAFETY: a context without data, large enough for three tensors, freed at the end; the device lives as long as the
    // process, and looks at the node's type and shape.
    unsafe {
        let params = sys::ggml_init_params { mem_size: 4 << 10, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        let context = sys::ggml_init(params);
        if context.is_null() {
            return false;
        }
        let weights = sys::ggml_new_tensor_2d(context, dtype, SIDE, SIDE);
        let values = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, SIDE, SIDE);
        let supports = sys::ggml_backend_dev_supports_op(device, sys::ggml_mul_mat(context, weights, values));
        sys::ggml_free(context);
        supports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: DeviceKind, free: u64) -> Device {
        let (name, description) = (name.to_owned(), String::new());
        Device { name, description, kind, memory_free_bytes: free, memory_total_bytes: free }
    }

    /// A choice, layers, devices beside the processor and backends; GPUs, or words of the reason or the error.
    type Case = (DeviceChoice, i32, Vec<Device>, Vec<String>, Result<Vec<&'static str>, &'static str>);

    #[test]
    fn a_model_goes_to_gpus_that_can_take_it_and_otherwise_says_why_not() {
        let cpu = || device("CPU", DeviceKind::Cpu, 100);
        let (big, small) = (device("Vulkan0", DeviceKind::Gpu, 100), device("Vulkan1", DeviceKind::Gpu, 10));
        let silent = device("Metal", DeviceKind::IntegratedGpu, 0);
        let named = |name: &str| DeviceChoice::Named(name.to_owned());
        let vulkan = || vec!["Vulkan".to_owned()];
        let (auto, gpu) = (DeviceChoice::Auto, DeviceChoice::Gpu);
        let cases: [Case; 14] = [
            (auto.clone(), -1, vec![], vec![], Err("no GPU backend")),
            (auto.clone(), -1, vec![], vulkan(), Err("Vulkan found no GPU")),
            (auto.clone(), -1, vec![big.clone()], vulkan(), Ok(vec!["Vulkan0"])),
            (auto.clone(), -1, vec![big.clone(), small.clone()], vulkan(), Ok(vec!["Vulkan0", "Vulkan1"])),
            (auto.clone(), -1, vec![small.clone()], vulkan(), Err("1 MiB are free")),
            (auto.clone(), -1, vec![silent.clone()], vulkan(), Ok(vec!["Metal"])),
            (auto.clone(), -1, vec![silent, big.clone()], vulkan(), Ok(vec!["Vulkan0"])),
            (auto.clone(), 0, vec![big.clone()], vulkan(), Err("options")),
            (DeviceChoice::Cpu, -1, vec![big.clone()], vulkan(), Err("options")),
            (gpu.clone(), -1, vec![], vec![], Err("Unsupported: cannot use the GPU")),
            (gpu, -1, vec![small.clone()], vulkan(), Err("Limit: cannot use the GPU")),
            (named("vulkan0"), 4, vec![big.clone(), small.clone()], vulkan(), Ok(vec!["Vulkan0"])),
            (named("CUDA0"), -1, vec![big.clone()], vulkan(), Err("InvalidInput: no such GPU")),
            (named("CPU"), -1, vec![big], vulkan(), Err("InvalidInput: no such GPU")),
        ];
        for (index, (choice, layers, gpus, backends, expected)) in cases.into_iter().enumerate() {
            let devices: Vec<_> = [cpu()].into_iter().chain(gpus).collect();
            let demand = Demand { needed_bytes: 50, lacks: &|_| None };
            match (place(&choice, layers, &devices, &backends, &demand), expected) {
                (Ok(Placement { gpus, gpu_layers, no_gpu: None }), Ok(names)) => {
                    assert_eq!((gpus.iter().map(String::as_str).collect::<Vec<_>>(), gpu_layers), (names, layers));
                }
                (Ok(Placement { gpus, gpu_layers: 0, no_gpu: Some(reason) }), Err(says)) => {
                    assert!(gpus.is_empty() && reason.to_string().contains(says), "case {index}: {reason}");
                }
                (Err(error), Err(says)) => {
                    let text = format!("{:?}: {error}", error.kind());
                    assert!(text.contains(says), "case {index}: {text}");
                }
                (got, expected) => panic!("case {index}: {got:?}, expected {expected:?}"),
            }
        }
        let lacks = |device: &str| (device == "Vulkan1").then(|| "IQ2_XXS".to_owned());
        let demand = Demand { needed_bytes: 1, lacks: &lacks };
        let placed = place(&auto, -1, &[cpu(), small], &vulkan(), &demand).expect("the processor");
        let text = placed.no_gpu.expect("a reason").to_string();
        assert_eq!(text, "Vulkan1 does not multiply with IQ2_XXS weights");
    }

    #[test]
    fn the_processor_is_there_and_multiplies_with_everything_that_is_packed() {
        let devices = devices().expect("initialises");
        let processor = devices.iter().find(|device| device.kind == DeviceKind::Cpu).expect("a processor");
        for dtype in [sys::GGML_TYPE_F16, sys::GGML_TYPE_Q4_K, sys::GGML_TYPE_IQ2_XXS] {
            assert!(multiplies(&processor.name, dtype), "{dtype}");
        }
        assert!(!multiplies("no such device", sys::GGML_TYPE_F32));
        if devices.iter().all(|device| !device.kind.is_gpu()) {
            assert!(why_no_gpu().expect("initialises").is_some());
        }
    }
}
