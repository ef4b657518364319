//! Entropy coders: Huffman for planes of bytes, rANS for symbols whose distributions are known beforehand.

pub(crate) mod family;
pub(crate) mod huffman;
pub(crate) mod plane;
pub(crate) mod rans;

#[cfg(test)]
mod tests;
