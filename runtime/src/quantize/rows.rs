//! Rows of `f32` to ggml's types and back.

use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, backend, gguf::GgmlType};

/// Packs rows of `row_len` weights, `values.len()` a multiple of it, as `dtype`: the bytes that a GGUF file holds.
///
/// The result is the one of llama.cpp's own quantizer without an importance matrix.
///
/// # Errors
/// `Unsupported` for types that ggml cannot pack without an importance matrix or at all, `InvalidInput` for a length
/// that is not whole rows or blocks, or a value that is not finite.
pub fn quantize_rows(dtype: GgmlType, row_len: usize, values: &[f32]) -> Result<Vec<u8>> {
    let refused = || Error::new(ErrorKind::InvalidInput, format!("cannot pack rows as {dtype}"));
    if !can_pack(dtype) {
        let error = Error::new(ErrorKind::Unsupported, "cannot pack rows").got(dtype);
        return Err(error.needed("a type that needs no importance matrix"));
    }
    let row_bytes = dtype.row_bytes(row_len as u64).filter(|_| row_len > 0 && values.len().is_multiple_of(row_len));
    let Some(row_bytes) = row_bytes else {
        let needed = format!("whole rows of a multiple of {}", dtype.block_size());
        return Err(refused().got(format!("{} values in rows of {row_len}", values.len())).needed(needed));
    };
    if let Some(position) = values.iter().position(|value| !value.is_finite()) {
        return Err(refused().at(format!("value {position}")).got(values[position]).needed("finite numbers"));
    }
    backend::init()?;
    let n_rows = values.len() / row_len;
    let mut packed = vec![0u8; n_rows * row_bytes as usize];
    // SAFETY: `values` holds n_rows x row_len floats and `packed` n_rows x row_bytes bytes, which is what ggml reads and
    // writes from row 0 on; the type has a packing routine and needs no importance matrix (`can_pack`).
    let written = unsafe {
        sys::ggml_quantize_chunk(
            dtype.id() as sys::ggml_type,
            values.as_ptr(),
            packed.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            row_len as i64,
            std::ptr::null(),
        )
    };
    if written != packed.len() {
        let error = Error::new(ErrorKind::Internal, format!("ggml packed {dtype} to another size"));
        return Err(error.got(written).needed(packed.len()));
    }
    Ok(packed)
}

/// Unpacks whole blocks of `dtype` to `f32`.
///
/// # Errors
/// `Unsupported` for integer types, `InvalidInput` when `bytes` are not whole blocks.
pub fn dequantize_rows(dtype: GgmlType, bytes: &[u8]) -> Result<Vec<f32>> {
    if !(bytes.len() as u64).is_multiple_of(dtype.block_bytes()) {
        let error = Error::new(ErrorKind::InvalidInput, format!("cannot unpack {dtype}"));
        return Err(error
            .got(format!("{} bytes", bytes.len()))
            .needed(format!("whole blocks of {} bytes", dtype.block_bytes())));
    }
    if dtype == GgmlType::F32 {
        return Ok(bytemuck::pod_collect_to_vec(bytes));
    }
    backend::init()?;
    // SAFETY: the id is one of ggml's own; the traits live as long as the program.
    let traits = unsafe { &*sys::ggml_get_type_traits(dtype.id() as sys::ggml_type) };
    let Some(unpack) = traits.to_float else {
        return Err(Error::new(ErrorKind::Unsupported, "cannot unpack rows").got(dtype).needed("a type of weights"));
    };
    let n = bytes.len() as u64 / dtype.block_bytes() * dtype.block_size();
    let mut values = vec![0f32; n as usize];
    // Blocks hold f16 and f32 scales; bytes of a caller need not be aligned for them.
    let mut copy = Vec::new();
    let source = if bytes.as_ptr().addr().is_multiple_of(align_of::<u32>()) {
        bytes.as_ptr()
    } else {
        copy.resize(bytes.len().div_ceil(size_of::<u32>()), 0u32);
        bytemuck::cast_slice_mut(&mut copy)[..bytes.len()].copy_from_slice(bytes);
        copy.as_ptr().cast()
    };
    // SAFETY: `source` holds n / block_size whole blocks, aligned for their scales, and `values` n floats.
    unsafe { unpack(source.cast(), values.as_mut_ptr(), n as i64) };
    Ok(values)
}

/// Whether ggml packs rows of this type without an importance matrix.
fn can_pack(dtype: GgmlType) -> bool {
    use GgmlType as T;
    let plain = matches!(dtype, T::F32 | T::F16 | T::BF16);
    let blocks_of_32 = matches!(dtype, T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 | T::Iq4Nl | T::Mxfp4);
    let blocks_of_256 = matches!(dtype, T::Q2K | T::Q3K | T::Q4K | T::Q5K | T::Q6K | T::Tq1_0 | T::Tq2_0);
    let codebooks = matches!(dtype, T::Iq4Xs | T::Iq3S | T::Iq3Xxs);
    plain || blocks_of_32 || blocks_of_256 || codebooks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_all_types_are_those_of_ggml() {
        for dtype in GgmlType::ALL {
            // SAFETY: the id is one of ggml's own.
            let (block, bytes) = unsafe {
                let id = dtype.id() as sys::ggml_type;
                (sys::ggml_blck_size(id), sys::ggml_type_size(id))
            };
            assert_eq!((block as u64, bytes as u64), (dtype.block_size(), dtype.block_bytes()), "{dtype}");
        }
    }

    #[test]
    fn packed_rows_unpack_to_nearly_the_same_numbers() {
        let values: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for dtype in GgmlType::ALL.iter().copied().filter(|dtype| can_pack(*dtype)) {
            let packed = quantize_rows(dtype, 256, &values).expect("packs");
            assert_eq!(Some(packed.len() as u64), dtype.row_bytes(512), "{dtype}");
            let unpacked = dequantize_rows(dtype, &packed).expect("unpacks");
            // Scales take half a bit or more of what a weight has.
            let bits = (dtype.block_bytes() as f64 * 8.0 / dtype.block_size() as f64 - 0.5).floor();
            let error = values.iter().zip(&unpacked).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / 512.0;
            // A uniform quantizer of b bits on [-1, 1] has an error of (2 / 2^b)^2 / 12; blocks and codebooks cost up
            // to three times that, types below 2 bits up to a third of the signal.
            let limit = if bits < 2.0 { 0.12 } else { 3.0 * (2.0 / bits.exp2()).powi(2) / 12.0 + 2e-6 };
            assert!(error < limit, "{dtype}: {error} of {limit}");
            let mut shifted = vec![0];
            shifted.extend(&packed);
            assert_eq!(dequantize_rows(dtype, &shifted[1..]).expect("unpacks"), unpacked, "{dtype} misaligned");
        }
    }

    #[test]
    fn what_ggml_would_abort_on_is_refused() {
        let nan = [f32::NAN; 32];
        let cases = [
            ("a type without packing", quantize_rows(GgmlType::I32, 32, &[0.0; 32]), ErrorKind::Unsupported),
            ("an importance matrix needed", quantize_rows(GgmlType::Iq2Xs, 256, &[0.0; 256]), ErrorKind::Unsupported),
            ("rows of half a block", quantize_rows(GgmlType::Q8_0, 16, &[0.0; 32]), ErrorKind::InvalidInput),
            ("half a row", quantize_rows(GgmlType::Q8_0, 64, &[0.0; 32]), ErrorKind::InvalidInput),
            ("rows of nothing", quantize_rows(GgmlType::F32, 0, &[]), ErrorKind::InvalidInput),
            ("not a number", quantize_rows(GgmlType::Q8_0, 32, &nan), ErrorKind::InvalidInput),
        ];
        for (name, result, kind) in cases {
            assert_eq!(result.expect_err(name).kind(), kind, "{name}");
        }
        let half = dequantize_rows(GgmlType::Q8_0, &[0; 33]).expect_err("half a block");
        assert_eq!(half.kind(), ErrorKind::InvalidInput);
        assert_eq!(dequantize_rows(GgmlType::I64, &[0; 8]).expect_err("integers").kind(), ErrorKind::Unsupported);
    }
}
