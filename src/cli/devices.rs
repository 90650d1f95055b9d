//! `owlet devices`: what models can be computed on here, and why there is no GPU among it.

use clap::Args;
use owlet::{DeviceKind, devices, gpu_backends, why_no_gpu};
use serde::Serialize;

use super::{
    failure::Result,
    output::{self, Output, table},
};

/// List the devices that models can run on, with their memory, and tell why no GPU is used
#[derive(Args, Debug)]
pub(crate) struct DevicesArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    devices: Vec<Entry>,
    /// GPU backends that are compiled in.
    gpu_backends: Vec<String>,
    /// Why a model would run on the processor; absent where it would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    kind: &'static str,
    description: String,
    /// Absent where the driver does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_free_bytes: Option<u64>,
    memory_total_bytes: u64,
}

pub(crate) fn run(args: &DevicesArgs, output: Output) -> Result<()> {
    let found = devices()?;
    let no_gpu = why_no_gpu()?.map(|reason| reason.to_string());
    if args.json {
        let entries = found.into_iter().map(|device| Entry {
            name: device.name,
            kind: device.kind.name(),
            description: device.description,
            memory_free_bytes: Some(device.memory_free_bytes).filter(|&bytes| bytes > 0),
            memory_total_bytes: device.memory_total_bytes,
        });
        return output.json(&Report { devices: entries.collect(), gpu_backends: gpu_backends()?, no_gpu });
    }
    let mut rows = vec![["device", "free", "memory", "kind", "description"].map(str::to_owned).to_vec()];
    rows.extend(found.iter().map(|device| {
        vec![
            device.name.clone(),
            output::bytes(device.memory_free_bytes),
            output::bytes(device.memory_total_bytes),
            device.kind.name().to_owned(),
            device.description.clone(),
        ]
    }));
    output.data(table(&rows))?;
    if let Some(reason) = no_gpu {
        output.say(format_args!("no GPU: {reason}"));
    }
    if found.iter().any(|device| matches!(device.kind, DeviceKind::Gpu | DeviceKind::IntegratedGpu)) {
        output
            .say("GPUs are used by llama.cpp's own code, which Owlet's tests did not run on any: see ARCHITECTURE.md");
    }
    Ok(())
}
