//! What keys and values of a model are usually like: mean and spread of each channel of each lane.
//!
//! The file: `KVCG`, version, number of angles, the angles, number of lanes (four bytes each); for each lane, in order of layer and head, these (two bytes
//! each), its channels (four bytes), the usual spread of keys and of values, and mean and spread of every channel, keys first;
//! 16 bytes of BLAKE3 over all before. Numbers are little-endian, floats have 32 bits.

use super::super::layout::{Layout, Reader, header_of};
use super::forecast::Turn;
use super::grid;
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::collections::BTreeMap;

const MAGIC: [u8; 4] = *b"KVCG";
const VERSION: u32 = 1;
const CHECKSUM: usize = 16;

/// What a channel is usually like.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Channel {
    /// Its middle.
    pub mean: f32,
    /// Its distance from there.
    pub spread: f32,
}

/// Keys or values of a lane.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Lane {
    /// Geometric mean of the spreads within a page.
    pub spread: f32,
    /// Every channel.
    pub channels: Vec<Channel>,
}

/// Keys and values of all lanes, learned from pages in plain elements.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Profile {
    angles: Vec<f32>,
    lanes: BTreeMap<(u16, u16), [Lane; 2]>,
}

/// Sums over the pages of a lane's side.
#[derive(Default)]
struct Sums {
    /// Of pages, medians, their squares, squares of spreads, by channel.
    channels: Vec<[f64; 4]>,
    /// Of logarithms of pages' mean spreads, and pages that have one.
    spread: (f64, f64),
}

impl Profile {
    /// From pages of the model: some thousand tokens are enough. Pages that a recipe wrote, or with numbers that are not
    /// finite, teach nothing.
    ///
    /// `angles` are those of rotary position, in radians a position, of channel `i` with channel `i + angles.len()`. It is empty
    /// where keys are kept before rotary position, or it is not known; pages then become somewhat larger.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for bytes that are no page.
    pub fn learn<'a>(pages: &mut impl Iterator<Item = &'a [u8]>, angles: &[f32]) -> Result<Profile, StoreError> {
        let turn = Turn::new(angles);
        let mut sums: BTreeMap<(u16, u16), [Sums; 2]> = BTreeMap::new();
        for page in pages {
            let header = header_of(page)?;
            let Some(layout) = Layout::of(&header, page.len()) else { continue };
            let tokens = (header.tokens as usize).min(PAGE_TOKENS);
            let lane = sums.entry((header.layer, header.head)).or_default();
            for (side, sums) in [&layout.keys, &layout.values].into_iter().zip(lane) {
                let Some(mut x) = grid::read(side, &page[side.range.clone()]) else { continue };
                sums.channels.resize(side.channels, [0.0; 4]);
                let centres = |x: &[f32]| -> Vec<(f32, f32)> {
                    x.chunks(PAGE_TOKENS).map(|x| grid::centre(&x[..tokens])).collect()
                };
                if let Some(spread) = grid::mean_spread(centres(&x).iter().map(|centre| centre.1)) {
                    sums.spread.0 += f64::from(spread.log2());
                    sums.spread.1 += 1.0;
                }
                if let Some(turn) = turn.as_ref().filter(|_| side.by_channel) {
                    turn.undo(header.start, &mut x);
                }
                let centres = centres(&x);
                for (sum, &(median, spread)) in sums.channels.iter_mut().zip(&centres) {
                    let (median, spread) = (f64::from(median), f64::from(spread));
                    [1.0, median, median * median, spread * spread].iter().zip(sum).for_each(|(x, sum)| *sum += x);
                }
            }
        }
        let lanes = sums.into_iter().map(|(lane, sides)| (lane, sides.map(|sums| sums.lane())));
        Ok(Profile { angles: angles.to_vec(), lanes: lanes.collect() })
    }

    /// Angles of rotary position; see [`Profile::learn`].
    pub fn angles(&self) -> &[f32] {
        &self.angles
    }

    /// Keys and values of a lane, where it was learned with as many channels.
    pub fn lane(&self, layer: u16, head: u16, channels: usize) -> Option<&[Lane; 2]> {
        let lane = self.lanes.get(&(layer, head))?;
        lane.iter().all(|side| side.channels.len() == channels && side.spread > 0.0).then_some(lane)
    }

    /// The file; the same bytes for the same profile.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.angles.len() as u32).to_le_bytes());
        self.angles.iter().for_each(|angle| bytes.extend(angle.to_le_bytes()));
        bytes.extend((self.lanes.len() as u32).to_le_bytes());
        for (&(layer, head), sides) in &self.lanes {
            let channels = sides[0].channels.len().max(sides[1].channels.len());
            bytes.extend(layer.to_le_bytes());
            bytes.extend(head.to_le_bytes());
            bytes.extend((channels as u32).to_le_bytes());
            sides.iter().for_each(|side| bytes.extend(side.spread.to_le_bytes()));
            for side in sides {
                let channels =
                    side.channels.iter().copied().chain(std::iter::repeat(Channel::default())).take(channels);
                channels.for_each(|c| [c.mean, c.spread].iter().for_each(|x| bytes.extend(x.to_le_bytes())));
            }
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
        let fail = |what: &str| StoreError::Corrupt { place: "codec profile".to_owned(), what: what.to_owned() };
        let body = bytes.len().checked_sub(CHECKSUM).ok_or_else(|| fail("shorter than its checksum"))?;
        let (body, sum) = bytes.split_at(body);
        if blake3::hash(body).as_bytes()[..CHECKSUM] != *sum {
            return Err(fail("its checksum does not match its contents"));
        }
        let mut from = Reader::new(body);
        let mut four = || -> Result<[u8; 4], StoreError> {
            let mut four = [0; 4];
            four.copy_from_slice(from.take(4)?);
            Ok(four)
        };
        if four()? != MAGIC || u32::from_le_bytes(four()?) != VERSION {
            return Err(fail("no profile of this version; learn it again"));
        }
        let finite = |four: [u8; 4]| -> Result<f32, StoreError> {
            let x = f32::from_le_bytes(four);
            if x.is_finite() { Ok(x) } else { Err(fail("one of its numbers is not finite")) }
        };
        let mut angles = Vec::new();
        for _ in 0..u32::from_le_bytes(four()?) {
            angles.push(finite(four()?)?);
        }
        let mut lanes = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(four()?) {
            let [a, b, c, d] = four()?;
            let channels = u32::from_le_bytes(four()?);
            let mut float = || finite(four()?);
            let mut sides = [float()?, float()?].map(|spread| Lane { spread, channels: Vec::new() });
            for side in &mut sides {
                for _ in 0..channels {
                    side.channels.push(Channel { mean: float()?, spread: float()? });
                }
            }
            lanes.insert((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])), sides);
        }
        from.end()?;
        Ok(Profile { angles, lanes })
    }

    /// Eight hexadecimal digits that tell profiles apart in names of codecs.
    pub fn digest(&self) -> String {
        blake3::hash(&self.to_bytes()).to_hex()[..8].to_owned()
    }
}

impl Sums {
    fn lane(self) -> Lane {
        let channels = self.channels.iter().map(|&[pages, medians, squares, spreads]| {
            let mean = medians / pages;
            let drift = (squares / pages - mean * mean).max(0.0);
            Channel { mean: mean as f32, spread: (spreads / pages + drift).sqrt() as f32 }
        });
        let spread = if self.spread.1 > 0.0 { (self.spread.0 / self.spread.1).exp2() as f32 } else { 0.0 };
        Lane { spread, channels: channels.collect() }
    }
}
