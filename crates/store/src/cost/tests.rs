use super::plan::layers_before_start;
use super::transfer::{Chunk, Profile, Residual, Send, both_ways, envelope, next_send, text_or_cache};
use super::*;
use proptest::prelude::*;

/// Seconds by step, token and pair of tokens; by read and byte of `disk` and `net`; by byte of what `codec` decodes.
fn model(prefill: [f64; 3], disk: [f64; 2], net: [f64; 2], codec: f64) -> CostModel {
    let fit = |prior: &[f64]| {
        let n = prior.len();
        serde_json::json!({
            "prior": prior, "weights": vec![1.0; n], "covariance": vec![1.0; n * n], "error": 1.0, "observations": 0
        })
    };
    let json = serde_json::json!({
        "version": 1, "prefill": fit(&prefill), "tiers": {"disk": fit(&disk), "net": fit(&net)},
        "codecs": {"codec": fit(&[1e-9, codec])},
    });
    CostModel::from_json(&json.to_string()).unwrap()
}

fn tier(name: &str, bytes: u64) -> Source {
    Source::Tier { name: name.to_owned(), bytes, codec: "codec".to_owned(), pages: 2 * bytes }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-6)
}

/// Blocks that are loaded, in order, while the others are computed as soon as all before them are there.
fn simulate(model: &CostModel, demand: &Demand, loaded: u32) -> f64 {
    let (mut computed, mut read, mut last) = (demand.compute_queue, 0.0_f64, "");
    for at in 0..demand.tokens.div_ceil(demand.block) {
        if loaded >> at & 1 == 1 {
            let Source::Tier { name, bytes, codec, pages } = &demand.blocks[at][0] else { panic!("a tier") };
            read += if last == name { 0.0 } else { model.latency(name) };
            read += model.transfer(name, *bytes) + model.decode(codec, *pages);
            last = name;
        } else {
            let tokens = demand.block.min(demand.tokens - at * demand.block);
            computed = computed.max(read) + model.prefill(tokens, at * demand.block);
        }
    }
    computed
}

#[test]
fn no_choice_of_blocks_is_better_where_blocks_are_alike() {
    // Every set of blocks, in order, for machines where reading is anything from free to hopeless.
    for per_byte in [1e-10, 1e-8, 3e-8, 1e-7, 1e-6] {
        for queue in [0.0, 0.004] {
            let model = model([1e-15, 1e-5, 1e-7], [1e-12, per_byte], [1.0, 1.0], 1e-9);
            let blocks = vec![vec![tier("disk", 50_000)]; 10];
            let demand = Demand { tokens: 11 * 64, block: 64, blocks, compute_queue: queue, ..Demand::default() };
            let best = (0..1 << 10).map(|set| simulate(&model, &demand, set)).min_by(f64::total_cmp).unwrap();
            let plan = decide(&model, &demand);
            assert!((plan.seconds - best).abs() < 1e-9, "{per_byte} {queue}: {} {best}", plan.seconds);
            let set = plan.load.iter().flat_map(|(range, _)| range.clone()).fold(0, |set, at| set | 1 << at);
            assert!((simulate(&model, &demand, set) - best).abs() < 1e-9);
        }
    }
}

proptest! {
    #[test]
    fn the_plan_is_the_best_of_all_fronts_and_middles(
        sizes in proptest::collection::vec(0_u64..6, 1..9),
        tiers in proptest::collection::vec(0_u8..4, 9),
        byte in prop_oneof![Just(1e-9), Just(2e-8), Just(1e-7)],
        pairs in prop_oneof![Just(0.0), Just(1e-7), Just(1e-6)],
        layers in prop_oneof![Just(0_usize), Just(1), Just(30)],
        pipelined: bool,
        queue in prop_oneof![Just(0.0), Just(3e-3)],
    ) {
        let model = model([1e-4, 1e-5, pairs + 1e-12], [2e-4, byte], [3e-3, byte / 4.0], 1e-9);
        let blocks: Vec<Vec<Source>> = sizes.iter().zip(&tiers).map(|(size, which)| match which {
            0 => vec![Source::Pool],
            1 => vec![tier("disk", 20_000 * size + 1)],
            2 => vec![tier("net", 20_000 * size + 1)],
            _ if size % 2 == 0 => vec![],
            _ => vec![tier("disk", 20_000 * size + 1)],
        }).collect();
        let tokens = sizes.len() * 64 + 30;
        let demand = Demand { tokens, block: 64, blocks, compute_queue: queue, layers, pipelined, ..Demand::default() };
        let plan = decide(&model, &demand);
        // All fronts and middles, priced one block after the other.
        let compute = |from: usize, to: usize| if to > from { model.prefill(to - from, from) } else { 0.0 };
        let have = demand.blocks.iter().take_while(|block| block.contains(&Source::Pool)).count();
        let mut best = f64::INFINITY;
        for c in have..=sizes.len() {
            for m in c..=sizes.len() {
                if demand.blocks[c..m].iter().any(Vec::is_empty) {
                    continue;
                }
                let (mut waits, mut read, mut last) = (0.0, 0.0, None);
                for block in &demand.blocks[c..m] {
                    let name = match &block[0] {
                        Source::Pool => None,
                        Source::Tier { name, bytes, codec, pages } => {
                            if last != Some(Some(name)) {
                                waits += model.latency(name);
                            }
                            let (a, b) = (model.transfer(name, *bytes), model.decode(codec, *pages));
                            read += if pipelined { a.max(b) } else { a + b };
                            Some(name)
                        }
                    };
                    last = Some(name);
                }
                let front = queue + compute(64 * have, 64 * c);
                let tail = compute(64 * m, tokens);
                let total = if layers == 0 || c == m {
                    front.max(waits + read) + tail
                } else {
                    // Layer by layer: each waits for its pages, and for the layer below.
                    let n = layers as f64;
                    (0..layers).fold(front, |done, layer| done.max(waits + read * (layer + 1) as f64 / n) + tail / n)
                };
                best = best.min(total);
            }
        }
        prop_assert!((plan.seconds - best).abs() <= 1e-9 * best, "{} {best} {plan:?}", plan.seconds);
        // Every block is had in one way, in order.
        let loaded: Vec<usize> = plan.load.iter().flat_map(|(range, _)| range.clone()).collect();
        prop_assert_eq!(plan.front.start, have);
        prop_assert_eq!(loaded.len(), plan.tail.start / 64 - plan.front.end);
        prop_assert!(loaded.iter().enumerate().all(|(at, &block)| block == plan.front.end + at));
        prop_assert!(plan.alternatives.iter().all(|other| other.seconds >= plan.seconds * (1.0 - 1e-12)));
    }
}

#[test]
fn a_hit_that_is_slower_than_computing_is_refused() {
    let slow = model([1e-9, 1e-5, 1e-9], [10.0, 1e-9], [1.0, 1.0], 1e-9);
    let blocks = vec![vec![tier("disk", 1000)]; 4];
    let demand = Demand { tokens: 300, block: 64, blocks, ..Demand::default() };
    let plan = decide(&slow, &demand);
    assert!(plan.load.is_empty() && plan.front.is_empty() && plan.tail == (0..300));
    assert!(near(plan.seconds, slow.prefill(300, 0)));
    // Behind a long queue of others at the tier too.
    let fast = model([1e-9, 1e-5, 1e-9], [1e-6, 1e-9], [1.0, 1.0], 1e-9);
    assert_eq!(
        decide(&fast, &demand).load,
        [(0..4, Source::Tier { name: "disk".into(), bytes: 4000, codec: "codec".into(), pages: 8000 })]
    );
    let demand = Demand { tier_queues: vec![("disk".into(), 1 << 40)], ..demand };
    assert!(decide(&fast, &demand).load.is_empty());
    // A prompt whose blocks are all there still computes its last token, and with it its block.
    let demand = Demand { tokens: 256, block: 64, blocks: vec![vec![Source::Pool]; 4], ..Demand::default() };
    let plan = decide(&fast, &demand);
    assert_eq!((plan.have, plan.tail), (3, 192..256));
}

#[test]
fn the_model_finds_the_machine_it_runs_on() {
    let truth = |tokens: f64, start: f64| 4e-3 + 2e-4 * tokens + 3e-8 * tokens * (start + (tokens + 1.0) / 2.0);
    let mut model = CostModel::default();
    let shapes = [(64, 0), (512, 0), (512, 4096), (1, 100), (256, 20_000), (2048, 2048), (17, 300)];
    for (at, &(tokens, start)) in shapes.iter().cycle().take(300).enumerate() {
        let noise = 1.0 + 0.05 * ((at * 7 % 11) as f64 / 5.0 - 1.0);
        // One in twenty hits something else that the machine does.
        let hiccup = if at % 20 == 19 { 30.0 } else { 1.0 };
        model.observe_prefill(tokens, start, noise * hiccup * truth(tokens as f64, start as f64));
    }
    for &(tokens, start) in shapes.iter().chain(&[(4096, 8192), (128, 1000)]) {
        let (found, truth) = (model.prefill(tokens, start), truth(tokens as f64, start as f64));
        assert!((found / truth - 1.0).abs() < 0.15, "{tokens} from {start}: {found} for {truth}");
    }
    for at in 0..100_u64 {
        let bytes = 1000 << (at % 12);
        model.observe_tier("disk", bytes, 2e-3 + bytes as f64 / 4e8);
        model.observe_decode("lossless", bytes, bytes as f64 / 9e8);
    }
    assert!((model.latency("disk") / 2e-3 - 1.0).abs() < 0.1, "{}", model.latency("disk"));
    assert!((model.transfer("disk", 4 << 20) * 4e8 / f64::from(4 << 20) - 1.0).abs() < 0.1);
    assert!((model.decode("lossless", 900_000_000) - 1.0).abs() < 0.1);
    assert_eq!(model.decode("none", 1 << 40), 0.0);
    // Half as fast from now on: some hundred observations later it is believed.
    for &(tokens, start) in shapes.iter().cycle().take(400) {
        model.observe_prefill(tokens, start, 2.0 * truth(tokens as f64, start as f64));
    }
    let found = model.prefill(512, 512) / (2.0 * truth(512.0, 512.0));
    assert!((found - 1.0).abs() < 0.15, "{found}");
}

#[test]
fn nonsense_teaches_nothing_and_what_is_learned_survives_a_restart() {
    let mut model = CostModel::default();
    for seconds in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        model.observe_prefill(10, 10, seconds);
        model.observe_tier("disk", 10, seconds);
    }
    assert_eq!((model.prefill(100, 0), model.latency("disk")), {
        let fresh = CostModel::default();
        (fresh.prefill(100, 0), fresh.latency("disk"))
    });
    for at in 1..50 {
        model.observe_prefill(at * 10, at, 0.1 * at as f64);
        model.observe_tier("disk", 1000 * at as u64, 0.01);
    }
    let again = CostModel::from_json(&model.to_json().unwrap()).unwrap();
    // JSON may change a last bit.
    assert!(near(again.prefill(300, 5000), model.prefill(300, 5000)));
    assert!(near(again.latency("disk"), model.latency("disk")));
    assert_eq!(again.observations(), model.observations());
    for bad in ["", "{}", "[1]", &model.to_json().unwrap().replace("\"version\": 1", "\"version\": 2")] {
        let error = CostModel::from_json(bad).unwrap_err().to_string();
        assert!(error.starts_with("cost model: "), "{error}");
    }
}

#[test]
fn compression_pays_below_the_critical_bandwidth() {
    // The dossier's numbers: c = 4 and S = 2000 give 1500; a thousand at 500 take 2 without and 1 with it.
    let profile = Profile { ratio: 4.0, speed: 2000.0 };
    assert_eq!(profile.critical_bandwidth(), 1500.0);
    assert_eq!((1000.0 / 500.0, profile.seconds(1000.0, 500.0)), (2.0, 1.0));
    assert!(near(profile.seconds(1000.0, 1500.0), 1000.0 / 1500.0));
    assert_eq!(Profile { ratio: 1.0, speed: 2000.0 }.critical_bandwidth(), 0.0);
    assert_eq!(both_ways(3000.0, 6000.0), 2000.0);
}

#[test]
fn the_envelope_is_the_best_profile_at_every_bandwidth() {
    let profiles = [(4.0, 2000.0), (8.0, 300.0), (3.0, 900.0), (1.2, 9000.0), (2.0, 100.0), (16.0, 299.0)];
    let profiles = profiles.map(|(ratio, speed)| Profile { ratio, speed });
    let parts = envelope(&profiles);
    for bandwidth in (1..20_000).map(|b| f64::from(b) + 0.5) {
        let best = profiles.iter().map(|p| p.seconds(1.0, bandwidth)).fold(1.0 / bandwidth, f64::min);
        let chosen = parts.iter().rev().find(|(from, _)| bandwidth <= *from);
        let found = chosen.map_or(1.0 / bandwidth, |&(_, at)| profiles[at].seconds(1.0, bandwidth));
        assert!(near(found, best), "{bandwidth}: {found} {best}");
    }
    // More bandwidth never asks for a smaller size.
    assert!(
        parts.windows(2).all(|pair| pair[0].0 > pair[1].0 && profiles[pair[0].1].ratio < profiles[pair[1].1].ratio)
    );
    assert!(envelope(&[Profile { ratio: 1.0, speed: 10.0 }]).is_empty());
}

#[test]
fn a_residual_becomes_what_is_always_off() {
    let mut residual = Residual::default();
    for n in 1..=20 {
        residual.observe(1.0, 1.5);
        assert!(near(residual.seconds, 0.5 * (1.0 - 0.8_f64.powi(n))));
    }
    // A choice that is half as slow again as promised loses to one a third slower after a few of them.
    let mut chosen = Residual::default();
    let lost = (1..).find(|_| {
        chosen.observe(1.0, 1.5);
        1.0 + chosen.seconds > 1.0 + 1.0 / 3.0
    });
    assert_eq!(lost, Some(5));
}

#[test]
fn chunks_go_at_the_best_level_in_time_and_as_text_when_none_is() {
    let chunk = Chunk { levels: vec![400, 200, 100], decode: vec![0.0; 3], text: 2, compute: 1.5 };
    let left = vec![chunk.clone(); 4];
    // At 100 bytes a second four chunks take 16, 8 and 4 seconds; text takes 6.08.
    for (seconds, send) in [(20.0, 0), (16.0, 0), (15.9, 1), (8.0, 1), (7.9, 2), (4.0, 2)] {
        assert_eq!(next_send(&left, 100.0, seconds), Some(Send::Level(send)), "{seconds}");
    }
    // Nothing is in time, and the smallest level is soonest.
    assert_eq!(next_send(&left, 100.0, 3.9), Some(Send::Level(2)));
    // A tenth of the bandwidth: levels take 160, 80 and 40 seconds, text 6.8.
    assert_eq!(next_send(&left, 10.0, 30.0), Some(Send::Text));
    assert_eq!(next_send(&left, 10.0, 1.0), Some(Send::Text));
    assert_eq!(next_send(&left, 10.0, 40.0), Some(Send::Level(2)));
    assert_eq!(next_send(&[], 10.0, 40.0), None);
    let (text, cache) = text_or_cache(&left, 0, 10.0);
    assert!(near(text, 6.8) && near(cache, 160.0));
}

#[test]
fn computing_starts_when_it_will_never_wait() {
    for layers in [1, 2, 7, 30] {
        for (compute, load) in [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.3, 1.0), (0.01, 1.0)] {
            let start = layers_before_start(layers, compute, load);
            let waits = |start: usize| {
                (0..layers).any(|layer| start as f64 * load + layer as f64 * compute < (layer + 1) as f64 * load - 1e-9)
            };
            assert!(!waits(start) && (start == 1 || waits(start - 1)), "{layers} {compute} {load}: {start}");
        }
    }
}
