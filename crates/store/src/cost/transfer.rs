//! Whether and how keys and values are coded for a journey: KVServe's model, and CacheGen's choice chunk by chunk.

use serde::{Deserialize, Serialize};

/// What a codec does to pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// How many times smaller.
    pub ratio: f64,
    /// Bytes a second, both ways together: `1 / S = 1 / S_encode + 1 / S_decode`; see [`both_ways`].
    pub speed: f64,
}

/// Speed of encoding and then decoding.
pub fn both_ways(encode: f64, decode: f64) -> f64 {
    1.0 / (1.0 / encode + 1.0 / decode)
}

impl Profile {
    /// Seconds for `bytes` at a bandwidth in bytes a second, one after the other: `V/S + V/(cB)`.
    pub fn seconds(self, bytes: f64, bandwidth: f64) -> f64 {
        bytes / self.speed + bytes / (self.ratio * bandwidth)
    }

    /// The bandwidth from which on it is no gain: `(1 - 1/c) S` (KVServe, theorem 1).
    pub fn critical_bandwidth(self) -> f64 {
        (1.0 - 1.0 / self.ratio).max(0.0) * self.speed
    }
}

/// Which profile is best from which bandwidth downwards: pairs of a bandwidth and an index, falling; above the first, nothing
/// is coded. In `1/B` every profile is a line, so this is the lower envelope of lines (KVServe, theorem 2).
pub fn envelope(profiles: &[Profile]) -> Vec<(f64, usize)> {
    // Not coding is a line too: no cost to begin with, and the steepest.
    let line = |at: Option<usize>| at.map_or((0.0, 1.0), |at| (1.0 / profiles[at].speed, 1.0 / profiles[at].ratio));
    let mut parts = Vec::new();
    let (mut now, mut x) = (None, 0.0);
    loop {
        let (base, slope) = line(now);
        let crossing = |at: usize| {
            let (other, less) = line(Some(at));
            (less < slope).then(|| ((other - base) / (slope - less), at))
        };
        let next = (0..profiles.len()).filter_map(crossing).filter(|(cross, _)| *cross >= x);
        // Of several that cross at one point, the flattest goes on.
        let next = next.min_by(|a, b| a.0.total_cmp(&b.0).then(line(Some(a.1)).1.total_cmp(&line(Some(b.1)).1)));
        let Some((cross, at)) = next else { return parts };
        parts.push((1.0 / cross, at));
        (now, x) = (Some(at), cross);
    }
}

/// How far off predictions of a choice are: a mean that forgets, four fifths at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Residual {
    /// Seconds to add to a prediction.
    pub seconds: f64,
    /// How many observations there were.
    pub observations: u64,
}

impl Residual {
    /// Learns from what was predicted and what it was.
    pub fn observe(&mut self, predicted: f64, seconds: f64) {
        if (seconds - predicted).is_finite() {
            self.seconds += 0.2 * (seconds - predicted - self.seconds);
            self.observations += 1;
        }
    }
}

/// A chunk of a context that can be sent at several levels, or as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Bytes at each level, the best first.
    pub levels: Vec<u64>,
    /// Seconds to decode it at each level; as many.
    pub decode: Vec<f64>,
    /// Bytes of its text.
    pub text: u64,
    /// Seconds to compute it from its text.
    pub compute: f64,
}

/// How a chunk is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// At this level.
    Level(usize),
    /// As text, to be computed there: tokens are the smallest encoding.
    Text,
}

impl Chunk {
    fn seconds(&self, send: Send, bandwidth: f64) -> Option<f64> {
        match send {
            Send::Level(level) => Some(*self.levels.get(level)? as f64 / bandwidth + *self.decode.get(level)?),
            Send::Text => Some(self.text as f64 / bandwidth + self.compute),
        }
    }
}

/// How the next of the chunks that are left is sent: at the best level at which all of them would arrive in the time that is
/// left, else as text (CacheGen). Where not even that is in time, whatever is soonest there.
pub fn next_send(left: &[Chunk], bandwidth: f64, seconds: f64) -> Option<Send> {
    let first = left.first()?;
    let all = |send: Send| left.iter().map(|chunk| chunk.seconds(send, bandwidth)).sum::<Option<f64>>();
    let ways = || (0..first.levels.len()).map(Send::Level).chain([Send::Text]);
    let timely = ways().find(|&send| all(send).is_some_and(|all| all <= seconds));
    timely.or_else(|| {
        let priced = ways().filter_map(|send| Some((first.seconds(send, bandwidth)?, send)));
        priced.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, send)| send)
    })
}

/// Whether text and computing beat keys and values for a whole context: the seconds of both.
pub fn text_or_cache(chunks: &[Chunk], level: usize, bandwidth: f64) -> (f64, f64) {
    let sum = |send: Send| chunks.iter().filter_map(|chunk| chunk.seconds(send, bandwidth)).sum();
    (sum(Send::Text), sum(Send::Level(level)))
}
