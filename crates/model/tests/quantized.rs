//! A model of quantized blocks of every type: computed with integers it must agree with the same blocks decoded to
//! `f32` (by candle), up to the rounding of activations to sixteen bits, and be the same bits however it is run.

#![allow(clippy::unwrap_used)]

mod common;

use cachalot_kernels::Isa;
use cachalot_model::gguf::GgmlType;
use cachalot_model::{LoadOptions, WeightMode, load_weights};
use common::gguf_file::{GgufFile, Random, llama};
use common::{Rig, assert_same_bits, team};
use half::f16;

const HIDDEN: usize = 256;
const VOCAB: usize = 50;

/// A matrix of random blocks whose numbers are about `1/sqrt(inp)`.
fn matrix(file: &mut GgufFile, random: &mut Random, name: &str, kind: GgmlType, out: usize, inp: usize) {
    let shape = [out as u64, inp as u64];
    let scale = 1.5 / (inp as f32).sqrt();
    let blocks = out * inp / kind.block_elements();
    let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes()).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        let mut put = |at: usize, value: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        // Scale such that codes, and scales of groups where there are some, come out in range; minima such that the
        // mean is about zero.
        match kind {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => {}
            GgmlType::Q4_0 => put(0, scale / 8.0),
            GgmlType::Q5_0 => put(0, scale / 16.0),
            GgmlType::Q8_0 => put(0, scale / 128.0),
            GgmlType::Q4_1 => (put(0, scale / 8.0), put(2, -scale)).1,
            GgmlType::Q5_1 => (put(0, scale / 16.0), put(2, -scale)).1,
            GgmlType::Q4K => (put(0, scale / 8.0 / 32.0), put(2, scale / 32.0)).1,
            GgmlType::Q5K => (put(0, scale / 16.0 / 32.0), put(2, scale / 32.0)).1,
            GgmlType::Q6K => put(208, scale / 32.0 / 64.0),
        }
    }
    if !kind.is_quantized() {
        let mut value = || random.unit() * scale * 1.7;
        bytes = match kind {
            GgmlType::F32 => (0..out * inp).flat_map(|_| value().to_le_bytes()).collect(),
            GgmlType::F16 => (0..out * inp).flat_map(|_| f16::from_f32(value()).to_le_bytes()).collect(),
            _ => (0..out * inp).flat_map(|_| half::bf16::from_f32(value()).to_le_bytes()).collect(),
        };
    }
    file.tensor(name, &shape, kind.code(), bytes);
}

/// Two layers; `v` differs from `q` and `k` in the second, as mixed files have it.
fn model(kind: GgmlType) -> Vec<u8> {
    let mut random = Random(u64::from(kind.code()));
    let mut file = llama(HIDDEN as u32, 4, 2, 512, 2);
    let norm: Vec<f32> = (0..HIDDEN).map(|_| 1.0 + 0.3 * random.unit()).collect();
    matrix(&mut file, &mut random, "token_embd.weight", GgmlType::Q8_0, VOCAB, HIDDEN);
    file.floats("output_norm.weight", &[HIDDEN as u64], &norm);
    for i in 0..2 {
        let other = if i == 1 { GgmlType::Q6K } else { kind };
        for (name, kind, out, inp) in [
            ("attn_q", kind, 256, 256),
            ("attn_k", kind, 128, 256),
            ("attn_v", other, 128, 256),
            ("attn_output", kind, 256, 256),
            ("ffn_gate", kind, 512, 256),
            ("ffn_up", other, 512, 256),
            ("ffn_down", kind, 256, 512),
        ] {
            matrix(&mut file, &mut random, &format!("blk.{i}.{name}.weight"), kind, out, inp);
        }
        file.floats(&format!("blk.{i}.attn_norm.weight"), &[HIDDEN as u64], &norm);
        file.floats(&format!("blk.{i}.ffn_norm.weight"), &[HIDDEN as u64], &norm);
    }
    file.to_bytes()
}

fn rig(path: &std::path::Path, weights: WeightMode, threads: usize, isa: Isa) -> Rig {
    let options = LoadOptions { isa, team: team(threads), progress: None, weights };
    Rig::new(load_weights(path, &options).unwrap().0, threads, isa)
}

#[test]
fn integers_agree_with_decoded_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut random = Random(3);
    let tokens: Vec<u32> = (0..40).map(|_| random.below(VOCAB) as u32).collect();
    for kind in GgmlType::ALL {
        std::fs::write(&path, model(kind)).unwrap();
        let native = rig(&path, WeightMode::Native, 2, Isa::detect()).chunked(&tokens, 40);
        let decoded = rig(&path, WeightMode::F32, 2, Isa::detect()).chunked(&tokens, 40);
        let size = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let apart: Vec<f32> = native.iter().zip(&decoded).map(|(a, b)| a - b).collect();
        let error = size(&apart) / size(&decoded);
        println!("{:5} relative error {error:.2e}", kind.name());
        // Activations of sixteen bits are within 2^-16 of their block's largest; two layers of noise add up.
        assert!(error < 1.6e-4, "{}: {error}", kind.name());
        for chunk in [1, 3, 17] {
            let again = rig(&path, WeightMode::Native, 1, Isa::detect()).chunked(&tokens, chunk);
            assert_same_bits(&again, &native, &format!("{} in chunks of {chunk}", kind.name()));
        }
    }
}

#[test]
fn quantized_models_are_the_same_on_every_instruction_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tokens: Vec<u32> = (0..37).map(|i| i * 7 % VOCAB as u32).collect();
    for kind in [GgmlType::Q4_1, GgmlType::Q8_0, GgmlType::Q5K, GgmlType::Q6K] {
        std::fs::write(&path, model(kind)).unwrap();
        let plain = rig(&path, WeightMode::Native, 1, Isa::Portable).chunked(&tokens, 37);
        for isa in Isa::available() {
            let other = rig(&path, WeightMode::Native, 2, isa).chunked(&tokens, 37);
            assert_same_bits(&other, &plain, &format!("{} on {isa}", kind.name()));
        }
    }
}
