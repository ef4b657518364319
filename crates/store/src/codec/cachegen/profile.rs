//! What keys and values of a model are usually like: for each lane a basis in which its numbers have little to do with each
//! other, how large they are there, and what keys tell of values.
//!
//! The file: `KVCG`, version, number of angles, the angles, number of lanes (four bytes each); for each lane, in order of layer
//! and head, these (two bytes each), its channels (four bytes), keys, values and the forecast. A side is its step, the means of
//! its channels, the spreads of its components, and the matrix `[component][channel]`; the forecast is a matrix `[component of
//! values][component of keys]`. 16 bytes of BLAKE3 over all before. Numbers are little-endian, floats have 32 bits, those of
//! matrices 16.

use super::super::layout::Reader;
use crate::StoreError;
use half::f16;
use std::collections::BTreeMap;

const MAGIC: [u8; 4] = *b"KVCG";
const VERSION: u32 = 2;
const CHECKSUM: usize = 16;
/// Channels of a head beyond which a file is not believed.
const MOST: usize = 1024;

/// Keys or values of a lane: `x = mean + Σ component · row`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Basis {
    /// What steps of levels are multiples of.
    pub step: f32,
    /// Of channels.
    pub mean: Vec<f32>,
    /// Of components; of values, those of what the forecast left.
    pub spread: Vec<f32>,
    /// `[component][channel]`; numbers of half precision.
    pub rows: Vec<f32>,
    /// `[component][channel]`: what takes channels to components.
    pub analysis: Vec<f32>,
}

impl Basis {
    /// None where the rows do not span all channels, or lengths do not fit.
    pub fn new(step: f32, mean: Vec<f32>, spread: Vec<f32>, rows: Vec<f32>) -> Option<Basis> {
        let d = mean.len();
        if spread.len() != d || rows.len() != d * d || step <= 0.0 || spread.iter().any(|&spread| spread <= 0.0) {
            return None;
        }
        let inverse = invert(&rows, d)?;
        // Components of `x` are `x · rows⁻¹`.
        let analysis = (0..d * d).map(|at| inverse[at % d * d + at / d] as f32).collect();
        Some(Basis { step, mean, spread, rows, analysis })
    }
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Lane {
    /// Keys, before rotary position where the profile knows its angles.
    pub keys: Basis,
    /// Values.
    pub values: Basis,
    /// Components of values that components of keys foretell, `[of values][of keys]`.
    pub forecast: Vec<f32>,
}

/// All lanes, learned from pages in plain elements; see [`super::Learner`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Profile {
    pub(super) angles: Vec<f32>,
    pub(super) lanes: BTreeMap<(u16, u16), Lane>,
}

impl Profile {
    /// Learns from pages alone: some thousand tokens are enough. Pages that a recipe wrote, or with numbers that are not finite,
    /// teach nothing. `angles` as for [`super::Learner::new`], which also takes what queries and outputs tell.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for bytes that are no page.
    pub fn learn<'a>(pages: &mut impl Iterator<Item = &'a [u8]>, angles: &[f32]) -> Result<Profile, StoreError> {
        let mut learner = super::Learner::new(angles);
        pages.try_for_each(|page| learner.page(page))?;
        Ok(learner.finish())
    }

    /// Angles of rotary position; see [`Profile::learn`].
    pub fn angles(&self) -> &[f32] {
        &self.angles
    }

    /// A lane, where it was learned with as many channels.
    pub fn lane(&self, layer: u16, head: u16, channels: usize) -> Option<&Lane> {
        self.lanes.get(&(layer, head)).filter(|lane| lane.keys.mean.len() == channels)
    }

    /// Multiplies the steps of a layer's keys and values: what was found to matter more is written finer.
    pub fn scale(&mut self, layer: u16, keys: f32, values: f32) {
        for (_, lane) in self.lanes.range_mut((layer, 0)..=(layer, u16::MAX)) {
            lane.keys.step *= keys;
            lane.values.step *= values;
        }
    }

    /// The file; the same bytes for the same profile.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.angles.len() as u32).to_le_bytes());
        self.angles.iter().for_each(|angle| bytes.extend(angle.to_le_bytes()));
        bytes.extend((self.lanes.len() as u32).to_le_bytes());
        let halves = |bytes: &mut Vec<u8>, x: &[f32]| {
            x.iter().for_each(|&x| bytes.extend(f16::from_f32(x).to_le_bytes()));
        };
        for (&(layer, head), lane) in &self.lanes {
            bytes.extend(layer.to_le_bytes());
            bytes.extend(head.to_le_bytes());
            bytes.extend((lane.keys.mean.len() as u32).to_le_bytes());
            for side in [&lane.keys, &lane.values] {
                let singles = [side.step].into_iter().chain(side.mean.iter().chain(&side.spread).copied());
                singles.for_each(|x| bytes.extend(x.to_le_bytes()));
                halves(&mut bytes, &side.rows);
            }
            halves(&mut bytes, &lane.forecast);
        }
        let sum = blake3::hash(&bytes);
        bytes.extend(&sum.as_bytes()[..CHECKSUM]);
        bytes
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for anything that [`Profile::to_bytes`] cannot have written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Profile, StoreError> {
        let body = bytes.len().checked_sub(CHECKSUM).ok_or_else(|| fail("shorter than its checksum"))?;
        let (body, sum) = bytes.split_at(body);
        if blake3::hash(body).as_bytes()[..CHECKSUM] != *sum {
            return Err(fail("its checksum does not match its contents"));
        }
        let mut from = Reader::new(body);
        if from.take(4)? != MAGIC || word(&mut from)? != VERSION {
            return Err(fail("no profile of this version; learn it again"));
        }
        let count = word(&mut from)? as usize;
        let angles = singles(&mut from, count)?;
        let mut lanes = BTreeMap::new();
        for _ in 0..word(&mut from)? {
            let at = (from.short()? as u16, from.short()? as u16);
            let d = word(&mut from)? as usize;
            if d > MOST {
                return Err(fail("a lane of too many channels"));
            }
            let mut side = || {
                let step = singles(&mut from, 1)?[0];
                let (mean, spread) = (singles(&mut from, d)?, singles(&mut from, d)?);
                let rows = halves(&mut from, d * d)?;
                Basis::new(step, mean, spread, rows).ok_or_else(|| fail("a lane whose components are not all of it"))
            };
            let (keys, values) = (side()?, side()?);
            lanes.insert(at, Lane { keys, values, forecast: halves(&mut from, d * d)? });
        }
        from.end()?;
        Ok(Profile { angles, lanes })
    }

    /// Eight hexadecimal digits that tell profiles apart in names of codecs.
    pub fn digest(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex()[..8].to_owned()
    }
}

fn fail(what: &str) -> StoreError {
    StoreError::Corrupt { place: "codec profile".to_owned(), what: what.to_owned() }
}

fn word(from: &mut Reader<'_>) -> Result<u32, StoreError> {
    Ok((from.short()? | from.short()? << 16) as u32)
}

fn finite(numbers: Vec<f32>) -> Result<Vec<f32>, StoreError> {
    match numbers.iter().all(|x| x.is_finite()) {
        true => Ok(numbers),
        false => Err(fail("one of its numbers is not finite")),
    }
}

fn singles(from: &mut Reader<'_>, n: usize) -> Result<Vec<f32>, StoreError> {
    finite(from.take(n.saturating_mul(4))?.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect())
}

fn halves(from: &mut Reader<'_>, n: usize) -> Result<Vec<f32>, StoreError> {
    finite(from.take(2 * n)?.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()).collect())
}

/// The inverse of a matrix `[d][d]` (Gauss and Jordan with row pivots); none of one that has none.
fn invert(a: &[f32], d: usize) -> Option<Vec<f64>> {
    let wide = 2 * d;
    let mut rows: Vec<Vec<f64>> = (0..d)
        .map(|r| {
            let own = a[r * d..][..d].iter().map(|&x| f64::from(x));
            own.chain((0..d).map(|c| f64::from(u8::from(c == r)))).collect()
        })
        .collect();
    for at in 0..d {
        let pivot = (at..d).max_by(|&a, &b| rows[a][at].abs().total_cmp(&rows[b][at].abs()))?;
        rows.swap(at, pivot);
        let own = std::mem::take(&mut rows[at]);
        if own[at].abs() < 1e-9 {
            return None;
        }
        let own: Vec<f64> = own.iter().map(|x| x / own[at]).collect();
        for row in rows.iter_mut().filter(|row| !row.is_empty()) {
            let factor = row[at];
            row[at..wide].iter_mut().zip(&own[at..]).for_each(|(x, own)| *x -= factor * own);
        }
        rows[at] = own;
    }
    Some(rows.iter().flat_map(|row| row[d..].iter().copied()).collect())
}
