//! The devices of this machine.

use std::ffi::{CString, c_char};

use owlet_runtime::{Device, DeviceKind, Error, ErrorKind, devices};

use crate::{
    boundary::{self, Out},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    text::{c_string, owlet_string},
};

/// What sort of device runs a graph.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_device_kind {
    /// Of a kind that this version does not know.
    Other = 0,
    /// The processor.
    Cpu = 1,
    /// A graphics processor with memory of its own.
    Gpu = 2,
    /// A graphics processor that shares the machine's memory.
    IntegratedGpu = 3,
    /// An accelerator used together with the processor.
    Accelerator = 4,
}

/// A device. Strings belong to the list that it came from.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_device_info {
    /// sizeof(owlet_device_info), set by the caller.
    pub struct_size: usize,
    /// Short name: "CPU", "Metal", "Vulkan0". A model option takes it.
    pub name: *const c_char,
    /// What the driver calls it.
    pub description: *const c_char,
    /// Memory that the driver reports as free, in bytes; 0 where it does not tell.
    pub memory_free_bytes: u64,
    /// Memory in all, in bytes; for a processor that of the machine.
    pub memory_total_bytes: u64,
    /// An owlet_device_kind.
    pub kind: u32,
}

versioned!(owlet_device_info);

/// The devices of this build and machine, in order of preference. Never changes; may be read by several threads.
pub struct owlet_device_list {
    _opaque: (),
}

/// A device with its strings.
pub(crate) struct Named {
    device: Device,
    name: CString,
    description: CString,
}

impl Handle for owlet_device_list {
    type Target = Vec<Named>;
    const NAME: &'static str = "owlet_device_list";
}

/// Lists the devices. The caller frees `*out` by owlet_device_list_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_device_list_new(
    out: *mut *mut owlet_device_list,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        let named =
            |device: Device| Named { name: c_string(&device.name), description: c_string(&device.description), device };
        out.put(devices()?.into_iter().map(named).collect());
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// How many devices there are; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_device_list_length(list: *const owlet_device_list) -> usize {
    boundary::get(0, || handle::borrow(list).map_or(0, |list| list.len()))
}

/// Tells of device `index`, from 0, in `*out`, whose strings live as long as the list.
/// OWLET_STATUS_INVALID_INPUT beyond the last one.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_device_list_get(
    list: *const owlet_device_list,
    index: usize,
    out: *mut owlet_device_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let list = handle::borrow(list)?;
        let Named { device, name, description } = list.get(index).ok_or_else(|| beyond(index, list.len()))?;
        let kind = match device.kind {
            DeviceKind::Cpu => owlet_device_kind::Cpu,
            DeviceKind::Gpu => owlet_device_kind::Gpu,
            DeviceKind::IntegratedGpu => owlet_device_kind::IntegratedGpu,
            DeviceKind::Accelerator => owlet_device_kind::Accelerator,
            _ => owlet_device_kind::Other,
        };
        let info = owlet_device_info {
            name: name.as_ptr(),
            description: description.as_ptr(),
            memory_free_bytes: device.memory_free_bytes,
            memory_total_bytes: device.memory_total_bytes,
            kind: kind as u32,
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees a list and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_device_list_free(list: *mut owlet_device_list) {
    boundary::free(list);
}

/// An index that is too large.
pub(crate) fn beyond(index: usize, length: usize) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, "no such element").got(format!("index {index}"));
    error.needed(format!("less than {length}"))
}

/// Why a model without special wishes would not use a graphics processor on this machine, as a sentence; NULL where it
/// would. The caller frees `*out` by owlet_string_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_why_no_gpu(out: *mut *mut owlet_string, error: *mut *mut owlet_error) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let out = unsafe { Out::new(out) }?;
        if let Some(reason) = owlet_runtime::why_no_gpu()? {
            out.put(c_string(&reason.to_string()));
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}
