//! One block as bytes.

use crate::model::{self, F16, F32, Runs};
use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, Element, KvCache, KvFormat, LayerGeometry, Segment};
use cachalot_store::codec::Plain;
use cachalot_store::file::record;
use cachalot_store::{Block, Codec, Form, Page, StoreError};
use std::num::NonZeroUsize;
use std::sync::Arc;

fn block() -> Block {
    let domain = model::identity().domain();
    let pages = |start| {
        let mut pages = model::plain(start, &[(1, 8)], [F16, F16]);
        pages.push(Page { form: Form::Kept, bytes: model::encoded(1, 0, 8, start) });
        pages.push(Page { form: Form::Exact, bytes: model::page(1, 0, 8, start, [F32, F16]) });
        pages
    };
    model::chain(domain, 100, &pages).remove(1)
}

fn written(block: &Block, codec: &dyn Codec) -> Vec<u8> {
    let mut bytes = vec![7; 5];
    record::write(block, codec, &mut bytes).unwrap();
    bytes.split_off(5)
}

#[test]
fn a_block_comes_back_with_every_codec() {
    let block = block();
    let plain = written(&block, &Plain);
    assert_eq!(record::read(&plain, &[]).unwrap(), block);
    assert_eq!(plain.len() % 64, 0);
    let head = record::head(&plain).unwrap();
    assert_eq!((head.key, head.start, head.tokens.len(), head.pages.len()), (block.key(), 64, 36, 3));
    assert!(head.pages.iter().all(|page| page.codec == 0 && page.at % 64 == 0));

    for lossless in [true, false] {
        let codec = Runs { lossless };
        let coded = written(&block, &codec);
        assert_eq!(record::read(&coded, &[&Plain, &codec]).unwrap(), block);
        let head = record::head(&coded).unwrap();
        // Pages of half zeros become smaller; the bytes of a recipe would grow, which only a codec with loss may do.
        let numbers: Vec<u8> = head.pages.iter().map(|page| page.codec).collect();
        assert_eq!(numbers, [1, u8::from(!lossless), 1]);
        let error = record::read(&coded, &[&Plain]).unwrap_err();
        assert!(matches!(&error, StoreError::Codec { codec, .. } if *codec == format!("runs({lossless})")), "{error}");
    }
}

#[test]
fn any_changed_byte_is_an_error_or_changes_nothing() {
    let block = block();
    let codec = Runs { lossless: true };
    for bytes in [written(&block, &Plain), written(&block, &codec)] {
        let mut harmless = 0;
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1 << (at % 8);
            match record::read(&broken, &[&codec]) {
                Ok(read) => {
                    assert_eq!(read, block, "byte {at}");
                    harmless += 1;
                }
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "byte {at}: {error}"),
            }
        }
        // Padding alone: behind the head and behind each page.
        assert!(harmless < 64 * 4, "{harmless}");
        for len in 0..bytes.len() {
            assert!(record::read(&bytes[..len], &[&codec]).is_err(), "cut to {len}");
        }
    }
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let refused = |change: &dyn Fn(&mut Block)| {
        let mut block = block();
        change(&mut block);
        let mut out = b"before".to_vec();
        let error = record::write(&block, &Plain, &mut out).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert_eq!(out, b"before");
    };
    refused(&|block| block.tokens.clear());
    refused(&|block| block.tokens = vec![1; 65]);
    refused(&|block| block.start = 63);
    refused(&|block| block.start = 128);
    refused(&|block| block.parent = None);
    refused(&|block| block.pages.swap(0, 1));
    refused(&|block| block.pages[1] = block.pages[0].clone());
    refused(&|block| block.pages[0].bytes[100] ^= 1);
    refused(&|block| block.pages[0].bytes.truncate(10));
    // Bytes of a recipe are no exact form.
    refused(&|block| block.pages[1].form = Form::Exact);
}

/// The document's layout of plain pages is the cache's own.
#[test]
fn a_page_made_from_the_document_has_the_bytes_of_the_cache() {
    const DIM: usize = 20;
    for (kinds, format) in [
        ([F16, F32], KvFormat { k: Element::F16, v: Element::F32 }),
        ([model::BF16, F16], KvFormat { k: Element::Bf16, v: Element::F16 }),
    ] {
        let layer = LayerGeometry {
            heads: 2,
            kv_heads: 2,
            head_dim: DIM,
            scale: 1.0,
            softcap: None,
            window: None,
            rope: None,
            output: None,
        };
        let config = CacheConfig::new(vec![layer.clone(), layer], 1 << 24, format);
        let cache = KvCache::new(config, Arc::new(Team::new(NonZeroUsize::MIN)), Isa::Portable).unwrap();
        let mut seq = cache.create();
        cache.reserve(&mut seq, 128).unwrap();
        let rows = |layer, key| -> Vec<f32> {
            let element = |i: usize| {
                let (position, head, channel) = (i / (2 * DIM), i / DIM % 2, i % DIM);
                model::element(key, layer, head as u16, position as u64, channel)
            };
            (0..128 * 2 * DIM).map(element).collect()
        };
        for layer in 0..2 {
            let (k, v) = (rows(layer, true), rows(layer, false));
            let (q, mut out) = (vec![0.0; k.len()], vec![0.0; k.len()]);
            let mut segments = [Segment { seq: &mut seq, rows: 128 }];
            cache.attend(layer.into(), &mut segments, &q, &k, &v, &mut out).unwrap();
        }
        cache.advance(&mut [Segment { seq: &mut seq, rows: 128 }]);
        cache.settle(&mut seq);
        // Pages are counted lane by lane: two of each.
        for (n, (layer, head, start)) in (0..8).map(|n| (n, (n as u16 / 4, n as u16 / 2 % 2, n as u64 % 2 * 64))) {
            let page = model::page(layer, head, DIM, start, kinds);
            let sealed = seq.sealed_page(n).unwrap();
            assert_eq!((sealed.start(), sealed.len()), (start, page.len()));
            let cachalot_kv::page::SealedView::Exact(view) = sealed.view() else { panic!("a plain page") };
            assert_eq!([view.k, view.v].concat(), page[64..], "page {n}");
        }
    }
}
