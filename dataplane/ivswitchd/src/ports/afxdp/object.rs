//! The BPF objects of this binary, read and fitted to the running kernel, before their programs are loaded.

use std::io;
use std::sync::OnceLock;

use aya::maps::MapError;
use aya_obj::Object;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/steer.bpf.o"));

/// A program cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object is malformed.
    #[error("the object: {0}")]
    Object(String),
    /// The kernel refuses to create a map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel or its verifier refuses.
    #[error("{cause}{log}")]
    Kernel {
        /// The kernel's error.
        cause: io::Error,
        /// The end of the verifier's log.
        log: String,
    },
}

/// A kernel function that programs call.
pub struct KernelFunction {
    /// The number of the BPF helper that stands for this function in the object.
    stands_for: i32,
    name: &'static str,
    since: &'static str,
}

pub const CAST: KernelFunction =
    KernelFunction { stands_for: 0x6976, name: "bpf_cast_to_kern_ctx", since: "Linux 6.2" };
const TAG: KernelFunction =
    KernelFunction { stands_for: 0x6977, name: "bpf_xdp_metadata_rx_vlan_tag", since: "Linux 6.8" };

/// Writes into the programs where the running kernel has the fields that they read, and its function that
/// leads to them.
pub fn fit_to_kernel(object: &mut Object, called: &KernelFunction) -> Result<(), LoadError> {
    let KernelFunction { stands_for, name, since } = called;
    let lacks = |what: &dyn std::fmt::Display| LoadError::Object(format!("this kernel's BTF: {what}"));
    let kernel = Btf::from_sys_fs().map_err(|error| lacks(&error))?;
    object.relocate_btf(&kernel).map_err(|error| lacks(&error))?;
    let function = kernel.id_by_type_name_kind(name, BtfKind::Func);
    let function = function.map_err(|_| lacks(&format_args!("no {name} ({since} or newer has it)")))?;
    let instructions = object.functions.values_mut().flat_map(|function| &mut function.instructions);
    for instruction in instructions {
        if u32::from(instruction.code) == BPF_JMP | BPF_CALL && instruction.imm == *stands_for {
            instruction.set_src_reg(BPF_PSEUDO_KFUNC_CALL as u8);
            instruction.imm = function as i32;
        }
    }
    Ok(())
}

/// Parses the object without its own BTF and the running kernel's: the programs use neither.
pub fn parse() -> Result<Object, LoadError> {
    static PARSED: OnceLock<Object> = OnceLock::new();
    if let Some(object) = PARSED.get() {
        return Ok(object.clone());
    }
    let object = parse_object(OBJECT)?;
    Ok(PARSED.get_or_init(|| object).clone())
}

/// The object with the program that restores VLAN tags as the running kernel has it. To find out takes the processor some
/// 15 ms, so it is done for the first port only.
pub fn parse_tagged() -> Result<Object, LoadError> {
    static FITTED: OnceLock<Result<Object, String>> = OnceLock::new();
    let fit = || {
        let mut object = parse()?;
        fit_to_kernel(&mut object, &TAG)?;
        Ok(object)
    };
    let fitted = FITTED.get_or_init(|| {
        fit().map_err(|error| match error {
            LoadError::Object(what) => what,
            other => other.to_string(),
        })
    });
    fitted.clone().map_err(LoadError::Object)
}

pub fn parse_object(bytes: &[u8]) -> Result<Object, LoadError> {
    Object::parse(bytes).map_err(|error| LoadError::Object(error.to_string()))
}
